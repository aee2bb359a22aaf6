"""Keeps what was trained on, so that any step can be looked at, and learned from, again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.context import trained
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.record import LEARNED, SCORED, Facts, RolloutRecord
from lambda_grpo_pl.replay.store import FOLDER, GIB, RolloutStore


class RolloutRecorder(L.Callback):
    """Writes every rollout that was trained on to `<default_root_dir>/rollouts`, a Parquet file each.

    `lambda-grpo replay` learns from them again, and pandas or DuckDB read them: see docs/replay.md. The oldest files go
    once there are too many or they take too much space.
    """

    def __init__(self, max_rollouts: int = 500, max_gib: float = 4.0) -> None:
        """Keep the settings.

        Args:
            max_rollouts: Rollouts that are kept, the newest ones; 0 keeps none.
            max_gib: Space that they may take, in GiB, all ranks together.
        """
        if max_rollouts < 0 or not max_gib > 0:
            raise UserError(
                f"record.max_rollouts is {max_rollouts} and record.max_gib {max_gib}: set max_rollouts to 0 or more "
                "and max_gib above 0."
            )
        self.max_rollouts, self.max_gib = max_rollouts, max_gib
        self._first_update = 0
        self._began = False

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Note how many updates came before; drop what a resumed run is going to record again."""
        self._first_update = trainer.global_step
        if self.max_rollouts and not self._began:
            store_of(trainer).forget_from(batch.index, trainer.global_rank)
        self._began = True

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Write the rollout."""
        if not self.max_rollouts:
            return
        store = store_of(trainer)
        store.write(record_of(trainer, pl_module, outputs, batch, self._first_update))
        store.bound(self.max_rollouts, self.max_gib * GIB / trainer.world_size, trainer.global_rank)


def store_of(trainer: L.Trainer, folder: str = FOLDER) -> RolloutStore:
    """Return the store in a folder of the run."""
    return RolloutStore(Path(trainer.default_root_dir) / folder)


def record_of(
    trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, first_update: int
) -> RolloutRecord:
    """Return the record of a rollout whose training step has ended."""
    facts = Facts(
        rollout=batch.index,
        first_update=first_update,
        last_update=trainer.global_step,
        weights_version=first_update - int(trainer.callback_metrics.get("sampler/staleness", 0)),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        device=pl_module.device.type,
        num_threads=torch.get_num_threads(),
        method=trained(pl_module).method_name,
        metrics=outputs["metrics"],
    )
    learned = {name: outputs[name].cpu() for name in (*LEARNED, *SCORED) if name in outputs}
    return RolloutRecord(facts=facts, batch=copy_to_cpu(batch), learned=learned)


def copy_to_cpu(batch: RolloutBatch) -> RolloutBatch:
    """Return a batch whose tensors are on the CPU; the one given keeps its own."""
    heldout = None if batch.heldout is None else copy_to_cpu(batch.heldout)
    copied = RolloutBatch(batch.prompts, batch.index, batch.completions, batch.rewards)
    copied.to("cpu")
    copied.heldout = heldout
    return copied
