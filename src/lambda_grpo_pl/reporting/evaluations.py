"""The evaluations of a run: scores for the tables, and where the records are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.evaluation.records import list_benchmarks, read_setup
from lambda_grpo_pl.evaluation.report import RUN, SCORES, RunInfo, tabulate_records
from lambda_grpo_pl.evaluation.runs import read_info
from lambda_grpo_pl.reporting.tables import read_or_note

STEP = "step-"
"""How the folders of evaluations begin."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkScores:
    """The scores of one benchmark."""

    metric: str
    """The measure it is known by: `accuracy` or `score`."""
    measures: dict[str, float]
    """Every measure by name."""
    setup: dict[str, Any]
    """How it was asked, sampled and judged."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a run."""

    step: int
    """Policy updates of the weights that answered."""
    info: RunInfo
    """Whose scores these are."""
    scores: dict[str, BenchmarkScores]
    """Benchmark → scores."""
    records: dict[str, Path]
    """Benchmark → folder of its records."""
    finished: bool
    """Whether it wrote its scores; otherwise they are computed from the records so far."""


def read_evaluations(run: Path, notes: list[str]) -> list[Evaluation]:
    """Return a run's evaluations by step; the folder may also be one evaluation."""
    folders = [each for each in (run, *sorted(run.glob("evaluation/*"))) if is_evaluation(each)]
    evaluations = [read_evaluation(folder, notes) for folder in folders]
    return sorted(evaluations, key=lambda evaluation: evaluation.step)


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder holds an evaluation, finished or not."""
    has_records = folder.name.startswith(STEP) and bool(list_benchmarks(folder))
    return has_records or (folder / SCORES).is_file() or (folder / RUN).is_file()


def read_evaluation(folder: Path, notes: list[str]) -> Evaluation:
    """Return one evaluation from its folder."""
    info = read_or_note(read_info, folder, notes) or RunInfo()
    records: dict[str, Path] = {}
    for place in list_benchmarks(folder):
        if (setup := read_or_note(read_setup, place, notes)) is not None:
            records[setup.benchmark] = place
    finished = (folder / SCORES).is_file()
    scores = read_or_note(_read_scores, folder / SCORES, notes) if finished else None
    if not scores:
        scores = (read_or_note(_compute_scores, folder, notes) if records else None) or {}
    if not finished:
        notes.append(
            f"The evaluation {folder.name} is not finished: its scores are over the questions answered so far."
        )
    return Evaluation(
        step=max(info.step, _step_in(folder.name)),
        info=info,
        scores={benchmark: scores[benchmark] for benchmark in in_registry_order(scores)},
        records=records,
        finished=finished,
    )


def _read_scores(file: Path) -> dict[str, BenchmarkScores]:
    """Return what scores.json holds."""
    entries = json.loads(file.read_text(encoding="utf-8", errors="replace"))["benchmarks"]
    return {
        name: BenchmarkScores(
            metric=entry["settings"]["metric"],
            measures={key: float(value) for key, value in entry["measures"].items() if value is not None},
            setup=dict(entry["settings"]),
        )
        for name, entry in entries.items()
    }


def _compute_scores(folder: Path) -> dict[str, BenchmarkScores]:
    return {
        result.settings.benchmark: BenchmarkScores(
            metric=result.settings.metric, measures=result.measures, setup=asdict(result.settings)
        )
        for result in tabulate_records(folder)
    }


def _step_in(name: str) -> int:
    digits = name.removeprefix(STEP)
    return int(digits) if digits.isdecimal() else 0
