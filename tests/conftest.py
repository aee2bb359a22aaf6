"""What tests of several rooms start from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random policy and its tokenizer."""
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def in_root() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def parser(in_root: None) -> Any:
    """The command line's parser of all subcommands, with descriptions, before anything is built."""
    from jsonargparse import set_parsing_settings

    from lambda_grpo_pl.cli import main  # seconds to import, and most tests do not need it
    from lambda_grpo_pl.cli.main import LambdaGRPOCLI, build

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "_spare_unused", lambda kind, words: kind)
        for step in ("before_instantiate_classes", "instantiate_classes", "after_instantiate_classes"):
            patch.setattr(LambdaGRPOCLI, step, lambda self: None)
        patch.setattr(LambdaGRPOCLI, "_run_subcommand", lambda self, subcommand: None)
        patch.setattr("sys.argv", ["lambda-grpo"])
        return build(["fit", "--config", "configs/base.yaml"]).parser
