"""One-step-off rollouts: the sampler produces the next rollout while the trainer learns from this one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lambda_grpo_pl.batch import Completions, RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule, engine, trained
from lambda_grpo_pl.callbacks.rollout import sync_sampler
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rollout.engine import RolloutAhead
from lambda_grpo_pl.rollout.policy_sampler import SamplerPlacement

CHECKPOINT_KEY = "one_step_off"


def check_correction(enabled: bool, is_correction: str) -> None:
    """Refuse rollouts that are one policy step old without a correction. Raises `UserError`."""
    if enabled and is_correction == "none":
        raise UserError(
            "one_step_off.enabled is true, but there is no correction for rollouts that are one policy step old: set "
            "model.objective.surrogate.is_correction to truncate or mask."
        )


class OneStepOff(L.Callback):
    """Has rollout k + 1 sampled and judged, in a separate process, while the policy trains on rollout k.

    A step then takes as long as the longer of sampling and training instead of their sum. The price is that a rollout
    comes from the policy of the step before. Its tokens are therefore weighted by π_old/π_sampler, the trainer's
    probability over the one that the sampler reported, truncated or masked (`model.objective.surrogate.is_correction`),
    which also corrects for any other difference between trainer and engine. The first rollout is on-policy.

    What was sampled ahead is part of the checkpoint, so a resumed run trains on it too; extending a run that has ended
    starts on-policy again.
    """

    def __init__(self, enabled: bool = False, num_threads: int | None = None, device: int | None = None) -> None:
        """Keep the settings.

        Args:
            enabled: Sample one step ahead; False samples when the step begins.
            num_threads: CPU threads of the sampler process; null: as many as the trainer has. Leave cores to both.
            device: GPU of the sampler process, counted among the visible ones; null: the trainer's own.
        """
        self.enabled, self.placement = enabled, SamplerPlacement(num_threads, device)
        self._kept: dict[int, RolloutAhead] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Move the sampler into a separate process, for training. Raises `UserError` if there is no correction."""
        if not self.enabled or stage != "fit":
            return
        check_correction(self.enabled, trained(pl_module).objective.surrogate.is_correction)
        engine(trainer).sampler.placement = self.placement

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Begin the next rollout with the weights that this step starts from; else free what only sampling needs.

        All other callbacks have sampled by now, and the first forward pass may need the engine's memory.
        """
        if not self.enabled:
            engine(trainer).sampler.sleep()
            return
        if trainer.global_step + trained(pl_module).updates.per_rollout >= trainer.max_steps:
            return
        sync_sampler(trainer, pl_module)
        following = datamodule(trainer).train_batch(batch.index + 1)
        self._kept = {index: kept for index, kept in self._kept.items() if index == batch.index}
        self._kept[following.index] = engine(trainer).begin(following)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Wait for what was begun, and put every rank's into the checkpoint: as plain tuples, which load anywhere."""
        if not self.enabled:
            return
        mine = {
            index: (kept.version, tuple(kept.completions.result()))
            for index, kept in self._kept.items()
            if kept.completions.exception() is None
        }
        everyone: list[Any] = [mine]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        checkpoint[CHECKPOINT_KEY] = everyone

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore what was sampled ahead, if this run samples ahead too."""
        everyone = checkpoint.get(CHECKPOINT_KEY, [])
        if not self.enabled or not everyone:
            return
        if len(everyone) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint's rollout was sampled ahead on {len(everyone)} ranks, but this run has "
                f"{trainer.world_size}: discarding it and sampling again."
            )
            return
        for index, (version, fields) in everyone[trainer.global_rank].items():
            done: Future[Completions] = Future()
            done.set_result(Completions(*fields))
            self._kept[index] = RolloutAhead(done, version)
        engine(trainer).restore_ahead(self._kept)
