"""The end of a run: what changed, what λ did, where the time went, and where the files are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table
from torch import Tensor
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.checkpoint import FOLDER, LAST
from lambda_grpo_pl.callbacks.context import ResultWriter
from lambda_grpo_pl.callbacks.figure import TERCILES, Series, draw_run
from lambda_grpo_pl.callbacks.gains import Gains, judge_gains, record_gains
from lambda_grpo_pl.callbacks.metric_names import CORRELATION, GRPO_LAMBDA, LAMBDA, titles
from lambda_grpo_pl.callbacks.monitor import curve_of

PHASES = ("sample", "score", "sync", "train")
F_RANGE = ("preference/f_min", "preference/f_max")
NUM_BINS = 12
NONE = "none: equal rewards"

Scores = dict[str, dict[str, float]]
"""`<set>: <its main measure>` → `score`, its interval `low` and `high`, mean `length` in tokens, and `questions`."""


class RunSummary(ResultWriter):
    """Prints a table before → after when the fit ends, interrupted or not, and writes `<default_root_dir>/run.png`.

    Everything in them is read from what other callbacks logged, returned or wrote, so list it last.

    Attributes:
        series: metric → one value per rollout.
        evaluations: update → scores of each validation set, in the order they were measured.
        seconds: phase → seconds since the run began, over all its parts if it was resumed.
        gains: method → gain on each held-out batch, if there were any.
    """

    def __init__(self, show: bool = True) -> None:
        """Keep the setting.

        Args:
            show: Print the table and write the picture.
        """
        self.show = show
        recorded = (*titles(), GRPO_LAMBDA, CORRELATION, *F_RANGE, *TERCILES)
        self.series: Series = {metric: [] for metric in recorded}
        self.evaluations: dict[int, Scores] = {}
        self.seconds: dict[str, float] = {}
        self.gains: Gains = {}
        self._last_f: tuple[Tensor, Tensor] | None = None

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Remember what the picture and the table show."""
        for metric, values in self.series.items():
            if metric in trainer.callback_metrics:  # a method without λ has no λ that equals GRPO's
                values.append(float(trainer.callback_metrics[metric]))
        for name, value in trainer.callback_metrics.items():
            if name.startswith("time/"):
                phase = name.removeprefix("time/")
                self.seconds[phase] = self.seconds.get(phase, 0.0) + float(value)
        if batch.heldout is not None:
            record_gains(self.gains, trainer.callback_metrics)
        self._last_f = batch.sampled().lengths[outputs["rows"]], outputs["weights"]

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the scores that the evaluation has just written."""
        file = Path(trainer.default_root_dir) / "evaluation" / f"step-{trainer.global_step:06d}" / "scores.json"
        if trainer.is_global_zero and file.is_file():
            self.evaluations.pop(trainer.global_step, None)
            self.evaluations[trainer.global_step] = read_scores(file)

    @override
    def write_results(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print and draw, on the first rank."""
        if not self.show or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        curve = curve_of(*self._last_f, NUM_BINS) if self._last_f else []
        draw_run(self.series, curve, folder / "run.png", self.gains)
        table = Table("", "before", "after", title="this run", title_justify="left")
        for row in self.rows():
            table.add_row(*row)
        console = Console()
        console.print(table)
        if self.evaluations and (measured := list(self.evaluations)[-1]) != trainer.global_step:
            config, last = folder / "config.yaml", folder / FOLDER / LAST
            command = f"lambda-grpo validate --config {config} --ckpt_path {last}"
            console.print(
                f"The scores after training are those of update {measured}; the run ended at update "
                f"{trainer.global_step}, which was not evaluated."
                + (f" `{command}` does that." if config.is_file() and last.exists() else ""),
                soft_wrap=True,
                highlight=False,
            )
        if verdict := judge_gains(self.gains):
            console.print(verdict, soft_wrap=True, highlight=False)
        for what, where in _files(trainer, folder):
            console.print(f"{what:>11}  {where}", soft_wrap=True, highlight=False)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the table's rows: name, before, after."""
        return [*self._evaluation_rows(), *self._preference_rows(), *self._correlation_rows(), *self._time_rows()]

    def _evaluation_rows(self) -> list[tuple[str, str, str]]:
        if not self.evaluations:
            return []
        updates = list(self.evaluations)
        before: Scores = self.evaluations[updates[0]] if len(updates) > 1 or updates[0] == 0 else {}
        after: Scores = self.evaluations[updates[-1]] if len(updates) > 1 or updates[0] > 0 else {}
        rows = [
            ("evaluated at update", str(updates[0]) if before else "not evaluated", str(updates[-1]) if after else "")
        ]
        for name in after or before:
            old, new = before.get(name, {}), after.get(name, {})
            rows.append((f"{name} (95 % interval)", format_score(old), format_score(new)))
            lengths = [f"{each['length']:.1f}" if each else "" for each in (old, new)]
            rows.append((f"{name.partition(':')[0]}: mean length, tokens", lengths[0], lengths[1]))
        return rows

    def _preference_rows(self) -> list[tuple[str, str, str]]:
        """What λ is and what that does, in the first and the last rollout."""
        path = self.series[LAMBDA]
        if not path:
            return []
        ends = [{metric: values[place] for metric, values in self.series.items() if values} for place in (0, -1)]
        first, last = ends
        f_ranges = [f"{end[F_RANGE[0]]:.3f} to {end[F_RANGE[1]]:.3f}" for end in ends]
        shares = [
            " / ".join(f"{end[metric]:.0%}" for metric in TERCILES) if any(end[metric] for metric in TERCILES) else NONE
            for end in ends
        ]
        rows = []
        if GRPO_LAMBDA in first:
            rows = [
                ("λ", f"{first[LAMBDA]:+.4f}", f"{last[LAMBDA]:+.4f}  (from {min(path):+.4f} to {max(path):+.4f})"),
                ("λ equivalent to GRPO", f"{first[GRPO_LAMBDA]:+.4f}", f"{last[GRPO_LAMBDA]:+.4f}"),
            ]
        return [
            *rows,
            ("f within a group (1: tokens weigh alike)", f_ranges[0], f_ranges[1]),
            ("gradient share, short / middle / long responses", shares[0], shares[1]),
        ]

    def _correlation_rows(self) -> list[tuple[str, str, str]]:
        """What decides which preference helps, over the first and the last quarter of the rollouts."""
        values = self.series.get(CORRELATION, [])
        size = math.ceil(len(values) / 4)
        quarters = [[value for value in part if math.isfinite(value)] for part in (values[:size], values[-size:])]
        if not any(quarters):
            return []
        before, after = (f"{fmean(quarter):+.2f}" if quarter else NONE for quarter in quarters)
        return [("corr(length, advantage), first / last quarter", before, f"{after}  (docs/which-preference.md)")]

    def _time_rows(self) -> list[tuple[str, str, str]]:
        known = {phase: self.seconds.get(phase, 0.0) for phase in PHASES}
        known["other"] = max(0.0, self.seconds.get("step", 0.0) - sum(known.values()))
        return [(f"seconds: {phase}", "", f"{seconds:.1f}") for phase, seconds in known.items()]

    @override
    def state_dict(self) -> dict[str, Any]:
        """What was recorded belongs to the run."""
        return {
            "series": self.series,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "gains": self.gains,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record."""
        self.series, self.evaluations = state_dict["series"], state_dict["evaluations"]
        self.seconds, self.gains = state_dict["seconds"], state_dict.get("gains", {})


def read_scores(file: Path) -> Scores:
    """Return the scores in an evaluation's `scores.json`; an interval that is not known is left out."""
    scores: Scores = {}
    for name, entry in json.loads(file.read_text(encoding="utf-8"))["benchmarks"].items():
        measures, main = entry["measures"], entry["settings"]["metric"]
        found = {
            "score": measures[main],
            "low": measures.get(f"{main}_low"),
            "high": measures.get(f"{main}_high"),
            "length": measures["length/mean"],
            "questions": measures["num_questions"],
        }
        scores[f"{name}: {main}"] = {key: value for key, value in found.items() if value is not None}
    return scores


def format_score(score: dict[str, float]) -> str:
    """Return a score with its interval; nothing for a set that was not measured."""
    if not score:
        return ""
    interval = f"  [{score['low']:.3f}, {score['high']:.3f}]" if "low" in score else ""
    return f"{score['score']:.3f}{interval}"


def _files(trainer: L.Trainer, folder: Path) -> list[tuple[str, str]]:
    """What the run left, and where."""
    files = [("picture", folder / "run.png"), ("f curves", folder / "preference_curve.csv")]
    files += [
        (f"{type(logger).__name__.removeprefix('Run').removesuffix('Logger')} log", Path(where))
        for logger in trainer.loggers
        if (where := logger.log_dir or logger.save_dir)
    ]
    files.append(("upload", folder / "wandb" / "upload.sh"))
    if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
        files.append(("checkpoint", Path(best)))
    return [(what, str(where)) for what, where in files if where.exists()]
