"""The newest state of a run, on disk whenever the run can stop."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.context import trained
from lambda_grpo_pl.errors import UserError

FOLDER = "checkpoints"
"""Folder of all checkpoints under trainer.default_root_dir."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
METHOD = "method"
"""Key of a checkpoint: the method that trained it."""
DUE = "evaluation_due"
"""Key of a checkpoint: whether the state is that before an evaluation which the resumed run has to make up for."""


class LatestCheckpoint(Checkpoint):
    """Keeps the newest state as `<default_root_dir>/checkpoints/last.ckpt` and the one before as `previous.ckpt`.

    Saves every few rollouts, before and after an evaluation, when the fit ends, and when it is interrupted: by Ctrl-C,
    SIGTERM or an exception. A state is saved only where a resumed run would continue exactly, which is everywhere
    except inside an update. An interrupt that arrives during an update therefore waits for its end; after an exception
    inside an update the last regular save stays. A checkpoint appears under its name only once it is complete.
    """

    def __init__(self, every: int = 25) -> None:
        """Keep the setting.

        Args:
            every: Rollouts between two saves; 0 saves only at the end and on interruption.
        """
        super().__init__()
        self.every = every
        self._learning = False
        self._interrupted = False
        self._evaluation_due = False
        self._saved: tuple[int, bool] | None = None
        self._handler: Any = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let Ctrl-C wait for the end of an update."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._on_sigint)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Note that the update begins: Lightning calls checkpoint callbacks last, after sampling and scoring."""
        self._learning = True

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Save when due; take up an interrupt that waited."""
        self._learning = False
        if self._interrupted:
            raise KeyboardInterrupt
        interval = trainer.val_check_batch
        self._evaluation_due = interval is not None and (batch.index + 1) % interval == 0
        if self._evaluation_due or (self.every and (batch.index + 1) % self.every == 0):
            self.save(trainer)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save again after an evaluation within a fit: its scores belong to the run."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._evaluation_due = False
            self.save(trainer)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the method, and whether an evaluation is still to come."""
        checkpoint[METHOD] = trained(pl_module).method_name
        checkpoint[DUE] = self._evaluation_due

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
        if checkpoint.get(DUE):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done}
            progress["current"] |= dict.fromkeys(progress["current"], 0)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state."""
        self._restore_handler()
        self.save(trainer)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what the interrupted run has reached."""
        self._restore_handler()
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self._learning:
            rank_zero_warn("Interrupted inside an update, whose state is not saved: --resume continues before it.")
        elif trainer.global_step > 0 and not trainer.validating:
            self.save(trainer)
            rank_zero_info(
                f"Saved update {trainer.global_step} as {self._folder(trainer) / LAST}: continue with --resume."
            )

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, unless this state is there already; collective."""
        state = trainer.global_step, self._evaluation_due
        if self._saved == state:
            return
        folder = self._folder(trainer)
        unfinished = folder / "unfinished"
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            _remove(folder / PREVIOUS)
            if (folder / LAST).exists():
                (folder / LAST).rename(folder / PREVIOUS)
            unfinished.rename(folder / LAST)
        trainer.strategy.barrier()
        self._saved = state

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / FOLDER

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted or not self._learning:
            raise KeyboardInterrupt
        self._interrupted = True
        rank_zero_info("Interrupted: saving at the end of this update (Ctrl-C again to leave at once).")

    def _restore_handler(self) -> None:
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
