"""The longest prompt of each set, with a full-length response, must fit the model and the engine."""

from pathlib import Path

import pytest

from lambda_grpo_pl.callbacks.lengths import check_lengths
from lambda_grpo_pl.data.module import TRAINING, PromptDataModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import VllmSettings
from tests.scored import save_tiny_policy

KEY = "rollout.sampling.max_tokens"


@pytest.fixture
def data(tmp_path: Path) -> PromptDataModule:
    """Prompts of at most 200 tokens for a model with 256 positions."""
    rows = [{"question": "7" * length, "answer": "1"} for length in (5, 184)]  # the template adds 16
    policy = save_tiny_policy(tmp_path / "policy", max_position_embeddings=256)
    read = PromptDataModule(str(policy), rows, [{"question": "1+1", "answer": "2"}])
    read.setup("fit")
    return read


def test_prompts_that_were_read_are_checked_not_their_limit(data: PromptDataModule) -> None:
    """The limit, 1,024 tokens, would exceed the model's 256 positions; no prompt does."""
    assert check_lengths(data, TRAINING, 56, None, KEY) == 1024 + 56
    with pytest.raises(UserError, match=r"data.train \(200\) plus .* 257 tokens, but the model has 256"):
        check_lengths(data, TRAINING, 57, None, KEY)
    (name,) = data.val_names
    check_lengths(data, name, 57, None, KEY)


def test_an_engine_that_is_too_short_is_refused(data: PromptDataModule) -> None:
    check_lengths(data, TRAINING, 50, VllmSettings(max_model_len=250), KEY)
    with pytest.raises(UserError, match=r"but rollout.engine.max_model_len is 249: raise it to 250"):
        check_lengths(data, TRAINING, 50, VllmSettings(max_model_len=249), KEY)
