"""The policies and prompts of this folder's tests."""

import pytest
from transformers import Qwen2ForCausalLM

from lambda_grpo_pl.batch import Prompts

from .parts import random_prompts, tiny_policy


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def policy(request: pytest.FixtureRequest) -> Qwen2ForCausalLM:
    return tiny_policy(request.param)


@pytest.fixture
def prompts() -> Prompts:
    return random_prompts([3, 9, 5, 7])
