"""Wall time by phase: sync, sample, score, train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch


@contextmanager
def timed(module: L.LightningModule, phase: str) -> Iterator[None]:
    """Log the wall time (seconds) of a phase of the training step as `time/<phase>`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    module.log(f"time/{phase}", time.perf_counter() - start)


class PhaseTimer(L.Callback):
    """Logs `time/train`, `time/step` and `train/tokens_per_second`; keep it after whoever samples and scores.

    Attributes:
        totals: seconds of each phase since the fit began, for whoever sums up the run.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self._step_start = self._train_start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the first step."""
        self._step_start = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The rollout is there: the rest of the step is training."""
        self._train_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step's times."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        pl_module.log("time/train", now - self._train_start)
        pl_module.log("time/step", now - self._step_start)
        tokens = int(batch.sampled().lengths.sum()) * trainer.world_size
        pl_module.log("train/tokens_per_second", tokens / (now - self._step_start))
        for name, value in trainer.callback_metrics.items():
            if name.startswith("time/"):
                self.totals[name] = self.totals.get(name, 0.0) + float(value)
        self._step_start = now
