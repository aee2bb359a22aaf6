"""The progress bar: what a rollout earned, not Lightning's epochs."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = {
    "reward/mean": "reward",
    "reward/accuracy": "accuracy",
    "response/length": "length",
    "preference/lambda": "λ",
    "train/tokens_per_second": "tokens/s",
}


class RolloutProgressBar(RichProgressBar):
    """Rich's bar with reward, accuracy, response length, λ and tokens per second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The metrics behind the bar, as of the last step."""
        known = trainer.callback_metrics
        return {label: round(float(known[name]), 4) for name, label in SHOWN.items() if name in known}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"
