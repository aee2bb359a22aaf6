"""The progress bar: what a rollout earned, not Lightning's epochs."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from lambda_grpo_pl.callbacks.metric_names import GRPO_LAMBDA, LAMBDA, labels


class RolloutProgressBar(RichProgressBar):
    """Rich's bar with reward, accuracy, response length, λ and tokens per second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)

    @property
    @override
    def total_train_batches(self) -> int | float:
        """The updates of the whole run, as `max_steps` counts them; without that, batches."""
        limit = self.trainer.max_steps
        return limit if limit > 0 else super().total_train_batches

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance to the updates made, those before a resume included."""
        done = trainer.global_step - 1 if trainer.max_steps > 0 else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    @override
    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics at the end of the bar, as of the last step; λ only of methods that have one."""
        logged = dict(trainer.callback_metrics)
        if GRPO_LAMBDA not in logged:
            logged.pop(LAMBDA, None)
        return {label: round(float(logged[name]), 4) for name, label in labels().items() if name in logged}

    @override
    def _get_train_description(self, current_epoch: int) -> str:
        """Call the bar what it is, after a resume too: a run has no epochs."""
        return "training"
