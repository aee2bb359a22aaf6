"""The newest state of a run, on disk whenever the run can stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.checkpoint_io import (
    flush_folder,
    install_checkpoint_io,
    link_checkpoint,
    raise_if_disk_is_full,
    remove_checkpoint,
    replace_checkpoint,
    seal_shards,
)
from lambda_grpo_pl.callbacks.checkpoint_layout import PARAMETERS, name_optimized
from lambda_grpo_pl.callbacks.context import trained, write_what_was_reached
from lambda_grpo_pl.callbacks.interrupts import Interrupts, PreemptedException
from lambda_grpo_pl.errors import UserError

FOLDER = "checkpoints"
"""Folder of all checkpoints under trainer.default_root_dir."""
LAST, PREVIOUS, KEPT = "last.ckpt", "previous.ckpt", "step-*.ckpt"
METHOD = "method"
"""Key of a checkpoint: the method that trained it."""
DUE = "evaluation_due"
"""Key of a checkpoint: whether the state is that before an evaluation which the resumed run has to make up for."""
UNLOGGED = "unlogged_metrics"
"""Key of a checkpoint: what its last update measured, if the loggers did not have it yet."""


class LatestCheckpoint(Checkpoint):
    """Keeps the newest state as `<default_root_dir>/checkpoints/last.ckpt` and the one before as `previous.ckpt`.

    Saves every few rollouts, before and after an evaluation, when the fit ends, and when it is interrupted: by Ctrl-C,
    SIGTERM, SIGUSR1 or an exception. A state is saved only where a resumed run would continue exactly, which is
    everywhere except inside an update. An interrupt that arrives during an update therefore waits for its end; after an
    exception inside an update the last regular save stays. A checkpoint appears under its name only once it is complete
    and on the disk (`DurableCheckpointIO`), and the one before goes only then.
    """

    def __init__(self, every: int = 25, keep_every: int = 0, keep: int = 4) -> None:
        """Keep the settings.

        Args:
            every: Rollouts between two saves; 0 saves only at the end and on interruption.
            keep_every: Rollouts between two saves that are also kept as `step-<updates>.ckpt`; 0 keeps none.
            keep: How many of those are kept, the newest ones; 0 keeps all.
        """
        super().__init__()
        if min(every, keep_every, keep) < 0:
            raise UserError(
                f"checkpoint.every is {every}, checkpoint.keep_every {keep_every} and checkpoint.keep {keep}: set all "
                "to 0 or more."
            )
        self.every, self.keep_every, self.keep = every, keep_every, keep
        self._interrupts = Interrupts()
        self._learning = False
        self._evaluation_due = False
        self._keeping = False
        self._saved: tuple[int, bool] | None = None
        self._failed = False
        self._unlogged: dict[str, float] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have every checkpoint written durably, those of other callbacks included."""
        install_checkpoint_io(trainer)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let Ctrl-C, SIGTERM and SIGUSR1 wait for the end of an update."""
        self._interrupts.install(trainer.world_size)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Note that the update begins: Lightning calls checkpoint callbacks last, after sampling and scoring."""
        self._interrupts.hold()
        self._learning = True

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Save when due; take up an interrupt that waited."""
        self._learning = False
        number, interval = batch.index + 1, trainer.val_check_batch
        self._evaluation_due = interval is not None and number % interval == 0
        self._interrupts.release()
        self._interrupts.check(trainer, pl_module.device)
        self._keeping = bool(self.keep_every) and number % self.keep_every == 0
        if self._evaluation_due or self._keeping or (self.every and number % self.every == 0):
            self._unlogged = _metrics_to_log(trainer)
            self.save(trainer)
        self._keeping, self._unlogged = False, {}

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take up an interrupt that waited for the other ranks: the state before the evaluation is saved already."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._interrupts.check(trainer, pl_module.device)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save again after an evaluation within a fit: its scores belong to the run."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._evaluation_due = False
            self.save(trainer)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the method, the optimizers' parameters, and whether an evaluation is still to come."""
        checkpoint[METHOD] = trained(pl_module).method_name
        checkpoint[PARAMETERS] = name_optimized(trainer, pl_module)
        checkpoint[DUE] = self._evaluation_due
        checkpoint[UNLOGGED] = self._unlogged

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to train on with another method, and make up for an evaluation that was interrupted.

        Lightning repeats an evaluation only if the restored progress says that it stopped in the middle of a batch.
        Raises `UserError`.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        method = trained(pl_module).method_name
        if checkpoint.get(METHOD, method) != method:
            raise UserError(
                f"The checkpoint was trained with the method {checkpoint[METHOD]}, but model.preference gives "
                f"{method}: set model.preference back, or start from the exported model instead."
            )
        self._evaluation_due = bool(checkpoint.get(DUE))
        if self._evaluation_due and checkpoint["global_step"] < trainer.max_steps:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done}
            progress["current"] |= dict.fromkeys(progress["current"], 0)
            # The loop counts the batch before the evaluation once when it restarts, and once more after the evaluation.
            checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state."""
        self._interrupts.restore()
        self.save(trainer)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what the interrupted run has reached; then let it be exported and drawn, unless the run is requeued."""
        self._interrupts.restore()
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self._learning:
            rank_zero_warn("Interrupted inside an update, whose state is not saved: --resume continues before it.")
        elif trainer.global_step > 0 and not self._failed:
            if not trainer.validating:
                _log_last_update(trainer)
                self.save(trainer)
            last = self._folder(trainer) / LAST
            rank_zero_info(f"Saved update {trainer.global_step} as {last}: continue with --resume.")
            if not isinstance(exception, PreemptedException):
                write_what_was_reached(trainer, pl_module)

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, unless this state is there already; collective. Raises `UserError` if the disk is full."""
        state = trainer.global_step, self._evaluation_due
        if self._saved == state:
            return
        folder = self._folder(trainer)
        with self._interrupts.held():
            self._write(trainer, folder / "unfinished")
            if trainer.is_global_zero:
                self._rotate(folder, trainer.global_step)
            trainer.strategy.barrier()
        self._saved = state

    def _write(self, trainer: L.Trainer, unfinished: Path) -> None:
        """Write the state to the disk; if the first rank cannot, none goes on."""
        if trainer.is_global_zero:
            remove_checkpoint(unfinished)
        trainer.strategy.barrier()
        failure: Exception | None = None
        try:
            trainer.save_checkpoint(unfinished, weights_only=False)
        except Exception as error:  # raised again below, once the ranks that wait have heard of it
            failure = error
            trainer.strategy.barrier()
        self._failed = trainer.strategy.broadcast(failure is not None)
        if failure is not None:
            raise_if_disk_is_full(failure, unfinished)
            raise failure
        if self._failed:
            raise UserError(f"The first rank could not write {unfinished}; its message says why.")
        if unfinished.is_dir():
            seal_shards(trainer, unfinished)

    def _rotate(self, folder: Path, step: int) -> None:
        """Give the finished checkpoint its name, and the one before the name `previous.ckpt`."""
        last = folder / LAST
        if last.exists():
            replace_checkpoint(last, folder / PREVIOUS)
        replace_checkpoint(folder / "unfinished", last)
        if self._keeping:
            link_checkpoint(last, folder / KEPT.replace("*", f"{step:06d}"))
            kept = sorted(folder.glob(KEPT), key=lambda path: path.stat().st_mtime)
            for old in kept[: -self.keep] if self.keep else ():
                remove_checkpoint(old)
        flush_folder(folder)

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / FOLDER


def _log_last_update(trainer: L.Trainer) -> None:
    """Send the loggers what the last update logged, unless Lightning has: it does so after `on_train_batch_end`."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if progress.completed < progress.processed:
        trainer._logger_connector.update_train_step_metrics()


def _metrics_to_log(trainer: L.Trainer) -> dict[str, float]:
    """Return what `_log_last_update` would send."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return {}
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {"epoch": trainer.current_epoch, **metrics}  # as Lightning adds it
