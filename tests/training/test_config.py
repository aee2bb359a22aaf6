"""Settings of the training room: what is refused, and how the method is named."""

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import SurrogateConfig
from lambda_grpo_pl.training.config import (
    ObjectiveConfig,
    OptimizerConfig,
    UpdateConfig,
    check_precision,
    name_method,
)


@pytest.mark.parametrize(
    ("preference", "level", "token_count", "name"),
    [
        ("grpo", "token", "global", "grpo"),
        ("grpo", "token", "group", "grpo"),
        ("grpo", "sequence", "global", "gspo"),
        ("dr_grpo", "sequence", "global", "luspo"),
        ("lambda", "sequence", "global", "lambda_sequence"),
        ("dapo", "token", "global", "dapo"),
        ("dapo", "token", "group", "prompt_mean"),
        ("dapo", "sequence", "group", "dapo_sequence"),
    ],
)
def test_a_method_is_named_by_preference_ratio_and_count(
    preference: str, level: str, token_count: str, name: str
) -> None:
    objective = ObjectiveConfig(surrogate=SurrogateConfig(ratio_level=level), token_count=token_count)  # type: ignore[arg-type]
    assert name_method(preference, objective) == name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions_that_keep_float32_weights_are_taken(precision: str) -> None:
    check_precision(precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-mixed", "64-true", "32", ""])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(UserError, match=f"trainer.precision is {precision}: set it to bf16-mixed"):
        check_precision(precision)


def test_prompts_split_into_equal_minibatches() -> None:
    updates = UpdateConfig(num_minibatches=3)
    updates.check(num_prompts=6)
    with pytest.raises(UserError, match=r"7 prompts per rank do not split into model\.updates\.num_minibatches = 3"):
        updates.check(num_prompts=7)


@pytest.mark.parametrize("kind", [ObjectiveConfig, OptimizerConfig, UpdateConfig])
def test_settings_are_given_by_name(kind: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(1)
