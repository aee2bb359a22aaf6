"""The methods that the language model is trained with: the overlay of each, and what it needs besides."""

from __future__ import annotations

METHODS = ("dapo", "grpo", "dr_grpo", "lambda", "correlation", "balanced_correlation")
"""What `model` compares."""
OTHERS = (
    "prompt_mean", "delta_l", "balanced", "gspo", "luspo", "dapo_full", "power_-1.5", "power_-1", "power_-0.5",
    "power_+0.5", "linear", "relative_power", "lambda_contextual", "lambda_validation", "placebo",
)  # fmt: skip
"""What `model --others` adds. `power_X` has a fixed λ of X; together they are an oracle's grid."""
_POWER = "power_"


def find_overlay(method: str) -> str:
    """Return the method's file in configs/preference."""
    return "power_fixed" if method.startswith(_POWER) else method


def list_options(method: str, task: str) -> list[str]:
    """Return the arguments that a method needs besides its overlay, to train on `task`."""
    if method.startswith(_POWER):
        return ["--model.preference.init", method.removeprefix(_POWER)]
    if method == "lambda_validation":
        return ["--data.heldout", f"{{path: {task}, split: validation}}"]
    return []
