"""One-step-off rollouts: the sampler makes the next rollout while the trainer learns from this one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lambda_grpo_pl.batch import Completions, RolloutBatch
from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.rollout import OwnProcess, RolloutAhead, RolloutCallback

CHECKPOINT_KEY = "one_step_off"


def check_correction(enabled: bool, is_correction: str) -> None:
    """Refuse stale rollouts that nothing corrects for. Raises `ValueError`."""
    if enabled and is_correction == "none":
        raise ValueError(
            "one_step_off.enabled is true, but nothing corrects for rollouts of the policy of one step before: set "
            "model.objective.surrogate.is_correction to truncate or mask."
        )


class OneStepOff(L.Callback):
    """Has rollout k + 1 sampled and judged, in a process of its own, while the policy trains on rollout k.

    A step then takes as long as the longer of sampling and training instead of their sum. The price is that a rollout
    comes from the policy of one step before. Its tokens are therefore weighed by π_old/π_sampler, the trainer's
    log-probability over the one that the sampler reported, truncated or masked (`objective.surrogate.is_correction`),
    which also corrects for any other difference between trainer and engine. The first rollout is on-policy.

    Keep it after whoever else samples. What was sampled ahead is part of the checkpoint, so a resumed run trains on it
    too; extending a run that has ended starts on-policy again.
    """

    def __init__(self, enabled: bool = False, num_threads: int | None = None, device: int | None = None) -> None:
        """Keep the settings.

        Args:
            enabled: Sample one step ahead; False samples when the step begins.
            num_threads: CPU threads of the sampler's process; null: as many as the trainer has. Leave cores to both.
            device: GPU of the sampler's process, counted among the visible ones; null: the trainer's own.
        """
        self.enabled, self.process = enabled, OwnProcess(num_threads, device)
        self._kept: dict[int, RolloutAhead] = {}

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Move the sampler into a process of its own, for training.

        Raises `ValueError` if nothing would correct for the policy of one step before.
        """
        if not self.enabled or stage != "fit":
            return
        check_correction(self.enabled, pl_module.objective.surrogate.is_correction)
        find_callback(trainer, RolloutCallback).own_process = self.process

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: RolloutBatch, batch_idx: int) -> None:
        """Begin the next rollout with the weights that this step starts from."""
        if not self.enabled or trainer.global_step + pl_module.updates.per_rollout >= trainer.max_steps:
            return
        rollout = find_callback(trainer, RolloutCallback)
        rollout.synchronise(trainer, pl_module)
        following = trainer.datamodule.train_batch(batch.index + 1)  # type: ignore[attr-defined]
        self._kept = {index: kept for index, kept in self._kept.items() if index == batch.index}
        self._kept[following.index] = rollout.begin(trainer, following)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Wait for what was begun, and put every rank's into the checkpoint: as plain tuples, which load anywhere."""
        if not self.enabled:
            return
        mine = {
            index: (kept.step, tuple(kept.completions.result()))
            for index, kept in self._kept.items()
            if kept.completions.exception() is None
        }
        everyone: list[Any] = [mine]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        checkpoint[CHECKPOINT_KEY] = everyone

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hand back what was sampled ahead, if this run samples ahead too."""
        everyone = checkpoint.get(CHECKPOINT_KEY, [])
        if not self.enabled or not everyone:
            return
        if len(everyone) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint's rollout was sampled ahead on {len(everyone)} ranks and this run has "
                f"{trainer.world_size}: it is dropped, and the first step samples anew."
            )
            return
        for index, (step, fields) in everyone[trainer.global_rank].items():
            done: Future[Completions] = Future()
            done.set_result(Completions(*fields))
            self._kept[index] = RolloutAhead(done, step)
        find_callback(trainer, RolloutCallback).ahead = dict(self._kept)
