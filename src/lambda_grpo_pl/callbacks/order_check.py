"""Refuses callbacks that are missing, repeated or out of order.

Callbacks are known by name here, so that `RolloutCallback` can check the others without importing them; a test holds
`ORDER` to `order.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import lightning as L

from lambda_grpo_pl.errors import UserError

ORDER = (
    "RolloutCallback",
    "RewardCallback",
    "DynamicSampling",
    "HeldoutRollout",
    "OneStepOff",
    "BenchmarkEvaluation",
    "PreferenceMonitor",
    "CompletionsTable",
    "RolloutRecorder",
    "Guards",
    "PredictionWriter",
    "HuggingFaceExport",
    "StartupPlan",
    "Rehearsal",
    "PhaseTimer",
    "Watchdog",
    "RunSummary",
    "LatestCheckpoint",
)
"""Class names in hook order."""


def check_order(callbacks: Sequence[L.Callback], evaluates: bool) -> None:
    """Refuse callbacks that are missing, repeated or out of order, before a model is loaded. Raises `UserError`.

    Args:
        callbacks: All of the trainer's; unknown ones may be anywhere.
        evaluates: Whether the run evaluates validation sets.
    """
    places = [place for each in callbacks for place, name in enumerate(ORDER) if name in _class_names(each)]
    for needed in ("RolloutCallback", "RewardCallback", "BenchmarkEvaluation")[: 3 if evaluates else 2]:
        if ORDER.index(needed) not in places:
            without = " (or pass val=[] to PromptDataModule)" if needed == "BenchmarkEvaluation" else ""
            raise UserError(f"{needed} is missing: add it to the trainer's callbacks{without}.")
    for earlier, later in pairwise(places):
        if earlier == later:
            raise UserError(f"The trainer has two callbacks of type {ORDER[later]}: remove one.")
        if earlier > later:
            raise UserError(
                f"{ORDER[later]} comes after {ORDER[earlier]}: list callbacks in the order {', '.join(ORDER)}, or pass "
                "default_callbacks()."
            )


def _class_names(callback: L.Callback) -> set[str]:
    return {kind.__name__ for kind in type(callback).__mro__}
