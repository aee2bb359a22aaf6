"""What λ does and why: the curve of f against length, and a dashboard whose layout is code."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from lambda_grpo_pl.batch import RolloutBatch

PANELS: dict[str, dict[str, str]] = {
    # In the order of the questions one asks of a run: does it learn, what does λ do, is it sound, is it fast?
    "1 learning": {
        "reward/mean": "rises, or the run does not learn",
        "reward/accuracy": "share of right answers while sampling",
        "reward/zero_variance_groups": "groups that teach nothing: all right or all wrong",
        "response/length": "tokens; falls under a GRPO-like preference, rises under the opposite",
        "response/truncated": "share cut off: keep it near 0",
    },
    "2 length preference": {
        "preference/lambda": "0 weighs all tokens alike (DAPO); negative favours short responses (GRPO)",
        "preference/slope": "dJ/dλ: where λ is pushed",
        "preference/grpo_lambda": "the λ whose f is GRPO's to first order on this batch",
        "preference/length_advantage_corr": "what drives the slope on-policy",
        "preference/f_min": "smallest weight in a group",
        "preference/f_max": "largest weight in a group",
        "preference/ess": "effective share of a group's responses: low means few decide",
        "preference/weight_short": "share of the gradient's weight held by the shortest third",
        "preference/weight_long": "and by the longest third",
        "preference/length_correct": "tokens of right answers",
        "preference/length_incorrect": "tokens of wrong answers",
    },
    "3 soundness": {
        "policy/gradient_norm": "before clipping",
        "policy/entropy": "nats a token; a collapse to 0 ends exploration",
        "policy/clip_high": "share of tokens clipped above",
        "policy/clip_low": "share of tokens clipped below",
        "policy/reference_kl": "nats a token away from the reference",
        "sampler/gap_max": "largest |log π_trainer − log π_sampler| of a token",
        "sampler/sync_gap": "the same right after a weight sync",
        "sampler/staleness": "updates since the weights that sampled; above 0 only one step off",
        "reward/verifier_failed": "answers that no verdict exists for",
    },
    "4 speed": {
        "train/tokens_per_second": "response tokens a second, all phases",
        "time/sample": "seconds until the last response was there, and read",
        "time/score": "seconds until the last verdict was there; verifiers begin while others are sampled",
        "time/train": "seconds",
        "time/sync": "seconds",
    },
}
"""Panel section → metric → what to read from it. W&B gets the sections as prefixes and `update` as the x axis."""


class PreferenceMonitor(L.Callback):
    """Writes `<default_root_dir>/preference_curve.csv` (step, length over its group's mean, f) and sets W&B's axes.

    Metrics are drawn against `update`, the number of policy updates, whatever a logger counts as steps.
    """

    def __init__(self, curve_every: int = 25, num_bins: int = 12) -> None:
        """Keep the settings.

        Args:
            curve_every: Steps between two curves of f against length; 0 draws none.
            num_bins: Points of a curve: equally many responses each.
        """
        self.curve_every, self.num_bins = curve_every, num_bins
        self.curve: list[tuple[float, float]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make `update` the x axis of every chart on W&B, and keep each metric's meaning with the run."""
        if trainer.global_step == 0 and trainer.is_global_zero:
            self._curve_file(trainer).unlink(missing_ok=True)  # another run's
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                run = logger.experiment
                run.define_metric("update")
                run.define_metric("*", step_metric="update", step_sync=True)
                run.config.update({"panels": PANELS}, allow_val_change=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Count updates for every logger, and take the curve when its turn has come."""
        pl_module.log("update", float(trainer.global_step))
        if not self.curve_every or batch.index % self.curve_every or not trainer.is_global_zero:
            return
        completions = batch.sampled()
        self.curve = curve_of(completions.lengths[outputs["rows"]], outputs["weights"], self.num_bins)
        self._log_curve(trainer)
        path = self._curve_file(trainer)
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["update", "relative_length", "f"])
            writer.writerows((trainer.global_step, *point) for point in self.curve)

    def _curve_file(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "preference_curve.csv"

    def _log_curve(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                table = wandb.Table(columns=["relative_length", "f"], data=[list(point) for point in self.curve])
                line = wandb.plot.line(table, "relative_length", "f", title="f against length / group mean")
                logger.experiment.log({"preference/curve": line}, commit=False)


def curve_of(lengths: Tensor, weights: Tensor, num_bins: int) -> list[tuple[float, float]]:
    """Mean f against mean length over its group's mean, in bins of equally many responses; [B, G] each."""
    relative = lengths.float() / lengths.float().mean(1, keepdim=True).clamp(min=1)
    order = relative.flatten().argsort(stable=True)
    bins = zip(
        torch.tensor_split(relative.flatten()[order], num_bins),
        torch.tensor_split(weights.flatten()[order], num_bins),
        strict=True,
    )
    return [(float(x.mean()), float(y.mean())) for x, y in bins if len(x)]
