"""The evaluations of a run: scores for the tables, and where the records are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.evaluation.records import read_setup
from lambda_grpo_pl.evaluation.report import RUN, SCORES, RunInfo, tabulate_records
from lambda_grpo_pl.evaluation.runs import read_info
from lambda_grpo_pl.reporting.tables import read_or_note


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
    folders = {
        file.parent.parent for pattern in ("*/*.parquet", "evaluation/*/*/*.parquet") for file in run.glob(pattern)
    }
    folders |= {file.parent for pattern in (SCORES, f"evaluation/*/{SCORES}") for file in run.glob(pattern)}
    evaluations = [read_evaluation(folder, notes) for folder in sorted(folders)]
    return sorted(evaluations, key=lambda evaluation: evaluation.step)


def read_evaluation(folder: Path, notes: list[str]) -> Evaluation:
    """Return one evaluation from its folder."""
    name = folder.name
    info = read_or_note(lambda: read_info(folder), RunInfo(step=_step_in(name)), f"{name}/{RUN}", notes)
    records: dict[str, Path] = {}
    for place in sorted({file.parent for file in folder.glob("*/*.parquet")}):
        setup = read_or_note(lambda: read_setup(place), None, f"{name}/{place.name}", notes)
        if setup is not None:
            records[setup.benchmark] = place
    finished = (folder / SCORES).is_file()
    scores = read_or_note(lambda: _read_scores(folder / SCORES), {}, f"{name}/{SCORES}", notes) if finished else {}
    if not scores and records:
        scores = read_or_note(lambda: _compute_scores(folder), {}, f"{name}: the records", notes)
    if not finished:
        notes.append(f"The evaluation {name} is not finished: its scores are over the questions answered so far.")
    step = info.step if (folder / RUN).is_file() else _step_in(name)
    ordered = {benchmark: scores[benchmark] for benchmark in in_registry_order(scores)}
    return Evaluation(step=step, info=info, scores=ordered, records=records, finished=finished)


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
    digits = name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0
