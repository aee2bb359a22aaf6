"""The keys of `fit`, read once."""

from collections.abc import Callable
from typing import Any

import pytest

from lambda_grpo_pl.cli.explain import ParserError, explain
from lambda_grpo_pl.cli.keys import Key, list_keys
from tests.test_configs import BASE

Explains = Callable[..., str]


@pytest.fixture(scope="module")
def keys(parser: Any) -> dict[str, Key]:
    return list_keys(parser._subcommands_action._name_parser_map["fit"])


@pytest.fixture
def explains(parser: Any, keys: dict[str, Key]) -> Explains:
    """The sentence for arguments that the parser refuses."""

    def refuse(*arguments: str) -> str:
        words = ["fit", *BASE, *arguments]
        with pytest.raises(ParserError) as caught:
            parser.parse_args(words)
        return explain(str(caught.value), keys, words)

    return refuse
