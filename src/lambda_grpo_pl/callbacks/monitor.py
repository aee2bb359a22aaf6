"""What λ does: the curve of f against length, the `update` of every logged row, and the start of the run's logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.checkpoint import UNLOGGED
from lambda_grpo_pl.callbacks.context import datamodule, trained
from lambda_grpo_pl.callbacks.loggers import RunCSVLogger, RunDescription, RunLogger
from lambda_grpo_pl.callbacks.metric_names import AXIS
from lambda_grpo_pl.callbacks.metrics_file import read_rows, rows_before, write_rows
from lambda_grpo_pl.callbacks.run_config import RunConfig

Curve = list[tuple[float, float]]
"""(length over its group's mean, f) of each point."""
COLUMNS = [AXIS, "relative_length", "f"]


class PreferenceMonitor(L.Callback):
    """Writes `<default_root_dir>/preference_curve.csv`, logs `update`, and starts the loggers' runs.

    The file has a row (update, length over its group's mean, f) for each point of each curve. A resumed run continues
    it after the update of its checkpoint.
    """

    def __init__(self, curve_every: int = 25, num_bins: int = 12) -> None:
        """Keep the settings.

        Args:
            curve_every: Rollouts between two curves of f against length; 0 writes none.
            num_bins: Points per curve; each averages equally many responses.
        """
        self.curve_every, self.num_bins = curve_every, num_bins
        self._has_started = False
        self._unlogged: dict[str, float] = {}

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the loggers' runs, unless Lightning does not know yet whether the fit resumes (sharded weights)."""
        self._has_started = False
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._start_runs(trainer, pl_module)

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the runs of the loggers before the first evaluation."""
        self._start_runs(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start them before an evaluation that is all that is left to do."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._start_runs(trainer, pl_module)

    def _start_runs(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the run of each logger that waits for it, once per fit, and log what a killed run had not."""
        loggers = [] if self._has_started or not trainer.is_global_zero else trainer.loggers
        self._has_started = True
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.start_run(describe_run(trainer, pl_module))
            if self._unlogged:
                logger.log_metrics(self._unlogged, trainer.global_step)
        self._unlogged = {}

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell the table of metrics where the run continues."""
        self._unlogged = checkpoint.get(UNLOGGED, {}) if trainer.state.fn == TrainerFn.FITTING else {}
        for logger in trainer.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.continue_from(checkpoint["global_step"])

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the runs of the loggers, and drop the curves of updates that are still to come: those after the
        checkpoint, or of another run.
        """
        self._start_runs(trainer, pl_module)
        path = _curve_file(trainer)
        if trainer.is_global_zero and path.is_file():
            kept = rows_before(path, trainer.global_step + 1)
            write_rows(path, COLUMNS, kept) if kept else path.unlink()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Log the number of updates, and write a curve every `curve_every` rollouts."""
        pl_module.log(AXIS, float(trainer.global_step))
        if not self.curve_every or batch.index % self.curve_every or not trainer.is_global_zero:
            return
        curve = curve_of(batch.sampled().lengths[outputs["rows"]], outputs["weights"], self.num_bins)
        rows = [dict(zip(COLUMNS, (trainer.global_step, *point), strict=True)) for point in curve]
        path = _curve_file(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, COLUMNS, read_rows(path) + rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                table = wandb.Table(columns=COLUMNS[1:], data=[list(point) for point in curve])
                line = wandb.plot.line(table, *COLUMNS[1:], title="f against length / group mean")
                logger.experiment.log({"preference/curve": line}, commit=False)


def curve_of(lengths: Tensor, weights: Tensor, num_bins: int) -> Curve:
    """Return mean f against mean length over its group's mean, in bins of equally many responses; [B, G] each."""
    relative = lengths.float() / lengths.float().mean(1, keepdim=True).clamp(min=1)
    order = relative.flatten().argsort(stable=True)
    bins = zip(
        torch.tensor_split(relative.flatten()[order], num_bins),
        torch.tensor_split(weights.flatten()[order], num_bins),
        strict=True,
    )
    return [(float(x.mean()), float(y.mean())) for x, y in bins if len(x)]


def describe_run(trainer: L.Trainer, pl_module: L.LightningModule) -> RunDescription:
    """Return what a tracking service shows beside the metrics. The configuration is the command line's, if any."""
    module = trained(pl_module)
    method = module.method_name
    model = Path(module.policy_config.path).name.removeprefix("builtin:")
    configs = [each.resolved() for each in trainer.callbacks if isinstance(each, RunConfig)]  # type: ignore[attr-defined]
    return RunDescription(
        name=f"{method} {model} seed {datamodule(trainer).seed}",
        group=f"{method} {model}",
        tags=(method, model),
        config=configs[0] if configs else {"method": method, "model": module.policy_config.path},
        resumed=trainer.ckpt_path is not None,
    )


def _curve_file(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "preference_curve.csv"
