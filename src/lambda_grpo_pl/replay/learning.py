"""Learning again from recorded rollouts: the module's own training step, from a checkpoint of the run, no sampler.

The trainer that does it has no other callbacks, loggers or evaluations, so nothing but the updates is repeated. On a
CPU with as many threads as the run had, the result is the run's, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.record import Facts, RolloutRecord
from lambda_grpo_pl.replay.store import RolloutStore


class StartingPoint(NamedTuple):
    """A state of the run before some rollout."""

    checkpoint: Path | None
    """None for the state before the first update, which the configuration gives."""
    rollout: int
    """The first rollout that was not learned from yet."""


class TrainerSettings(NamedTuple):
    """What the repeated updates depend on besides the module."""

    max_steps: int
    """trainer.max_steps of the run, to which learning-rate schedules refer."""
    precision: str = "32-true"
    accelerator: str = "auto"


class LearnedAgain(NamedTuple):
    """What the updates of one rollout gave this time."""

    rollout: int
    metrics: dict[str, float]
    """As the run logs them."""


def find_start(checkpoints: Path, store: RolloutStore, rollout: int) -> StartingPoint:
    """Return the nearest state from which every rollout before `rollout` is recorded.

    Raises `UserError` if there is none.
    """
    recorded = {facts.rollout for facts in store.list_facts()}
    starts = [StartingPoint(None, 0)]
    starts += [StartingPoint(path, next_rollout(path)) for path in checkpoints.glob("*.ckpt") if path.is_file()]
    for start in sorted(starts, key=lambda start: start.rollout, reverse=True):
        if start.rollout <= rollout and recorded.issuperset(range(start.rollout, rollout)):
            return start
    raise UserError(
        f"Rollout {rollout} cannot be reached: {store.folder} does not hold every rollout from a checkpoint in "
        f"{checkpoints} up to it. Keep more of them (record.max_rollouts, checkpoint.keep_every) in the next run."
    )


def next_rollout(checkpoint: Path) -> int:
    """Return the number of the first rollout that a checkpoint's state has not learned from; executes nothing."""
    try:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        return int(state["PromptDataModule"]["position"]["num_batches"])
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{checkpoint} is not a checkpoint of a training run ({error}): move it away.") from error


def learn_again(
    module: L.LightningModule,
    records: Sequence[RolloutRecord],
    checkpoint: Path | None,
    settings: TrainerSettings,
    save_to: Path | None = None,
) -> list[LearnedAgain]:
    """Make the updates of some rollouts, one after another.

    Args:
        module: A fresh `LambdaGRPO`; it may have another method than the run's.
        records: The rollouts, in order, the first of which follows the checkpoint.
        checkpoint: The state to start from; None for the module's own.
        settings: The run's.
        save_to: Where to save the state after the last one.
    """
    collector = _Collector(records[-1].facts.rollout, save_to)
    torch.set_num_threads(records[0].facts.num_threads)
    trainer = L.Trainer(
        max_steps=settings.max_steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        callbacks=[collector],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*callbacks used to create the checkpoint.*")
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        trainer.fit(module, datamodule=_RecordedData(records), ckpt_path=checkpoint, weights_only=True)
    return collector.results


def describe_environment(facts: Facts, device: str) -> list[str]:
    """Return, in sentences, why learning again may differ from the record in its last digits."""
    reasons = []
    if facts.torch_version != torch.__version__:
        reasons.append(f"The run used torch {facts.torch_version}; this is {torch.__version__}.")
    if facts.device != device:
        reasons.append(f"The run used {facts.device}; this replay uses {device}.")
    elif device != "cpu":
        reasons.append(f"Sums on {device} have no fixed order.")
    if facts.world_size > 1:
        reasons.append(f"The run had {facts.world_size} ranks; this replay has one.")
    return reasons


class _RecordedData(L.LightningDataModule):
    """Serves recorded rollouts in order."""

    def __init__(self, records: Sequence[RolloutRecord]) -> None:
        super().__init__()
        self._batches = [record.batch for record in records]

    @override
    def train_dataloader(self) -> Any:
        """Return the batches as an iterable without a length, as training has it: a resumed loop skips none."""
        return _Batches(self._batches)


class _Batches:
    def __init__(self, batches: Sequence[RolloutBatch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[RolloutBatch]:
        return iter(self._batches)


class _Collector(L.Callback):
    """Reads the metrics of each rollout, and stops after the last one."""

    def __init__(self, last: int, save_to: Path | None) -> None:
        self.results: list[LearnedAgain] = []
        self._last, self._save_to = last, save_to

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        self.results.append(LearnedAgain(batch.index, outputs["metrics"]))
        trainer.should_stop = batch.index == self._last
        if trainer.should_stop and self._save_to is not None:  # here, as a run saves its checkpoints
            trainer.save_checkpoint(self._save_to, weights_only=False)
