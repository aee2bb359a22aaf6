"""The progress bar: what a rollout earned, not Lightning's epochs."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from lambda_grpo_pl.callbacks.metric_names import labels


class RolloutProgressBar(RichProgressBar):
    """Rich's bar with reward, accuracy, response length, λ and tokens per second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)

    @override
    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics at the end of the bar, as of the last step."""
        logged = trainer.callback_metrics
        return {label: round(float(logged[name]), 4) for name, label in labels().items() if name in logged}

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar, and call it what it is: a run has no epochs."""
        super().on_train_epoch_start(trainer, pl_module)
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description="training")
