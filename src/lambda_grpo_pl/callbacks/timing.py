"""Wall time by phase: sync, sample, score, train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.phases import CLOCK, OTHER


@contextmanager
def timed(module: L.LightningModule, phase: str) -> Iterator[None]:
    """Log the wall time (seconds) of a phase of the training step as `time/<phase>`."""
    CLOCK.enter(phase)
    start = time.perf_counter()
    yield
    CLOCK.enter(OTHER)
    module.log(f"time/{phase}", _now() - start)


class PhaseTimer(L.Callback):
    """Logs `time/train`, `time/step` and `train/tokens_per_second`; list it after the callbacks that sample and score.

    A step begins where the last one ended, so that evaluations in between count as part of it.
    """

    def __init__(self) -> None:
        self._step_start = self._train_start = 0.0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the first step."""
        self._step_start = time.perf_counter()

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Begin the training phase: the rollout is complete."""
        CLOCK.enter("train")
        self._train_start = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Log the step's times."""
        now = _now()
        CLOCK.enter(OTHER)
        pl_module.log("time/train", now - self._train_start)
        pl_module.log("time/step", now - self._step_start)
        tokens = int(batch.sampled().lengths.sum()) * trainer.world_size
        pl_module.log("train/tokens_per_second", tokens / (now - self._step_start))
        self._step_start = now


def _now() -> float:
    """Return the time after the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
