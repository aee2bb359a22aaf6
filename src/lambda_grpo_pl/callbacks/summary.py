"""The end of a run: what changed, what λ did, where the time went, and where everything lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table

from lambda_grpo_pl.callbacks.context import find_callback
from lambda_grpo_pl.callbacks.evaluation import BenchmarkEvaluation
from lambda_grpo_pl.callbacks.export import HuggingFaceExport
from lambda_grpo_pl.callbacks.figure import PANELS, Series, draw_run
from lambda_grpo_pl.callbacks.monitor import PreferenceMonitor
from lambda_grpo_pl.callbacks.timing import PhaseTimer

PHASES = ("sample", "score", "sync", "train")


class RunSummary(L.Callback):
    """Prints a table before → after when the fit ends, and writes `run.png` beside the other files.

    Keep it last: it reads what the other callbacks logged.
    """

    def __init__(self, show: bool = True) -> None:
        """Keep the setting.

        Args:
            show: Print the table and write the picture.
        """
        self.show = show
        self.series: Series = {metric: [] for metric, _ in PANELS}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember what the picture shows."""
        for metric, values in self.series.items():
            values.append(float(trainer.callback_metrics[metric]))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print and draw, on the first rank."""
        if not self.show or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        draw_run(self.series, find_callback(trainer, PreferenceMonitor).curve, folder / "run.png")
        table = Table("", "before", "after", title="λ-GRPO, this run", title_justify="left")
        for row in self._rows(trainer):
            table.add_row(*row)
        console = Console()
        console.print(table)
        for what, where in self._files(trainer, folder):
            console.print(f"{what:>11}  {where}", soft_wrap=True, highlight=False)

    def _rows(self, trainer: L.Trainer) -> list[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        history = find_callback(trainer, BenchmarkEvaluation).history
        if history:
            first, last = history[0][1], history[-1][1]
            for name in last:
                rows.append((f"{name}: accuracy (95 % interval)", _accuracy(first[name]), _accuracy(last[name])))
                lengths = [f"{tables[name]['length/mean']:.1f}" for tables in (first, last)]
                rows.append((f"{name}: mean length, tokens", *lengths))  # type: ignore[arg-type]
        path = self.series["preference/lambda"]
        if path:
            rows.append(("λ", f"{path[0]:+.4f}", f"{path[-1]:+.4f}  (from {min(path):+.4f} to {max(path):+.4f})"))
        totals = find_callback(trainer, PhaseTimer).totals
        known = {phase: totals.get(f"time/{phase}", 0.0) for phase in PHASES}
        rest = max(0.0, totals.get("time/step", 0.0) - sum(known.values()))
        for phase, seconds in {**known, "other": rest}.items():
            rows.append((f"seconds: {phase}", "", f"{seconds:.1f}"))
        return rows

    def _files(self, trainer: L.Trainer, folder: Path) -> list[tuple[str, str]]:
        files = [("picture", str(folder / "run.png")), ("f curves", str(folder / "preference_curve.csv"))]
        for logger in trainer.loggers:
            if where := logger.log_dir or logger.save_dir:
                files.append((f"{type(logger).__name__.removesuffix('Logger')} log", where))
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            files.append(("checkpoint", best))
        export = find_callback(trainer, HuggingFaceExport)
        if export.folder is not None:
            files.append(("policy", str(folder / export.folder)))
        return files

    def state_dict(self) -> dict[str, Any]:
        """The series belong to the run."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the series."""
        self.series = state_dict["series"]


def _accuracy(table: dict[str, float]) -> str:
    text = f"{table['accuracy']:.3f}"
    if "accuracy_low" in table:
        text += f"  [{table['accuracy_low']:.3f}, {table['accuracy_high']:.3f}]"
    return text
