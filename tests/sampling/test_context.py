"""Prompts and responses that cannot fit are refused before anything is loaded."""

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import SamplingSettings, TransformersSampler, VllmSettings, check_context

from .parts import EOS, PAD, random_prompts, tiny_policy


def test_what_fits_is_what_the_engine_is_built_for():
    assert check_context(1024, 3072, VllmSettings(), 8192) == 4096
    assert check_context(1024, 3072, VllmSettings(max_model_len=4096), 4096) == 4096
    assert check_context(1024, 3072, None, None) == 4096
    assert VllmSettings().context_length(4096, 32768) == 4096
    assert VllmSettings(max_model_len=512).context_length(4096, 32768) == 512
    assert VllmSettings(max_model_len=512).context_length(None, 128) == 128
    assert VllmSettings().context_length(None, 32768) == 4096


@pytest.mark.parametrize(
    ("engine", "positions", "message"),
    [
        (VllmSettings(max_model_len=4095), 8192, r"rollout\.engine\.max_model_len is 4095: raise it to 4096"),
        (VllmSettings(), 4095, "the model has 4095 positions: lower"),
        (None, 4095, "the model has 4095 positions: lower"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_keys(engine, positions, message):
    with pytest.raises(UserError, match=rf"max_prompt_tokens \(1024\) plus rollout.*4096 tokens.*{message}"):
        check_context(1024, 3072, engine, positions)


def test_the_transformers_sampler_refuses_more_than_the_model_has():
    sampler = TransformersSampler([EOS], PAD)
    sampler.sync(tiny_policy(tied=True))
    with pytest.raises(UserError, match=r"\(9 tokens\) plus max_tokens \(120\) exceeds the model's 128 positions"):
        sampler.generate(random_prompts([9]), SamplingSettings(max_tokens=120), seed=0)
    assert len(sampler.generate(random_prompts([8]), SamplingSettings(max_tokens=120), seed=0).lengths) == 1
