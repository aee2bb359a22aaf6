"""What tests of several rooms start from."""

from pathlib import Path

import pytest

from tests.scored import save_tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random policy and its tokenizer."""
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))
