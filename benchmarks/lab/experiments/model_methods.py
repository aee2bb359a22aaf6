"""How a method of the language model is configured: its overlay, and what it needs besides."""

from __future__ import annotations

from pathlib import Path

_POWER = "power_"


def find_overlay(method: str) -> str:
    """Return the method's file in configs/preference."""
    return "power_fixed" if method.startswith(_POWER) else method


def list_options(method: str, task: str, donor: Path) -> list[str]:
    """Return the arguments that a method needs besides its overlay, to train on `task`.

    `donor` is the folder of the run whose λ a placebo has.
    """
    if method.startswith(_POWER):
        return ["--model.preference.init", method.removeprefix(_POWER)]
    if method == "lambda_validation":
        return ["--data.heldout", f"{{path: {task}, split: validation}}"]
    if method == "placebo":
        return ["--model.preference.placebo", str((donor / "csv/metrics.csv").resolve())]
    return []
