"""Evaluations read back from their folders, as rows that can be compared question by question."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lambda_grpo_pl.evaluation.records import EvaluationSetup, read_records, read_settings
from lambda_grpo_pl.evaluation.report import RUN, RunInfo


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one model: a run, or several seeds of it averaged question by question."""

    label: str
    """What tables call it."""
    info: RunInfo
    """Model, method and step; the seed is that of its first run."""
    num_seeds: int
    """Training runs in it."""
    values: dict[str, dict[str, float]]
    """Benchmark → question id → headline value, averaged over samples and seeds."""
    settings: dict[str, EvaluationSetup]
    """Benchmark → how it was asked."""

    def paired(self, other: Row, benchmark: str) -> tuple[list[float], list[float]]:
        """Return both rows' values on the questions that both answered, in one order."""
        mine, theirs = self.values[benchmark], other.values[benchmark]
        shared = [question for question in mine if question in theirs]
        if not shared:
            raise ValueError(
                f"{self.label} and {other.label} share no question of {benchmark}: their ids differ, so evaluate both "
                "from the same file."
            )
        return [mine[question] for question in shared], [theirs[question] for question in shared]


def find_evaluation(run: Path) -> Path:
    """Return a run's evaluation folder: the folder itself where it holds records, else its evaluation of the last step.

    Raises `ValueError` where there is none.
    """
    if any(run.glob("*/*.parquet")):
        return run
    candidates = [file.parent for file in run.rglob(RUN) if any(file.parent.glob("*/*.parquet"))]
    if not candidates:
        raise ValueError(f"{run} holds no evaluation: run `lambda-grpo validate` there first, or check the path.")
    return max(candidates, key=lambda folder: (read_info(folder).step, folder.stat().st_mtime))


def read_info(folder: Path) -> RunInfo:
    """Return whose evaluation a folder holds; nothing is known where it has no `run.json`."""
    file = folder / RUN
    return RunInfo(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else RunInfo()


def read_row(run: str | Path) -> Row:
    """Return one run, named after its folder where its model and method are not known."""
    folder = find_evaluation(Path(run))
    info = read_info(folder)
    values: dict[str, dict[str, float]] = {}
    settings: dict[str, EvaluationSetup] = {}
    for benchmark in sorted({file.parent for file in folder.glob("*/*.parquet")}):
        each = read_settings(benchmark)
        measured = "correct" if each.metric == "accuracy" else "scores"
        records = read_records(benchmark)
        values[each.benchmark] = {record.id: float(np.mean(getattr(record, measured))) for record in records}
        settings[each.benchmark] = each
    return Row(info.label or Path(run).resolve().name, info, 1, values, settings)


def read_rows(runs: Sequence[str | Path]) -> list[Row]:
    """Return one row per model and method: runs that differ only in their seed are averaged question by question.

    Runs with the same label and the same seed, or none, stay apart and are told apart by their folders.
    """
    groups: dict[str, list[tuple[Path, Row]]] = defaultdict(list)
    for run in runs:
        row = read_row(run)
        groups[row.label].append((Path(run), row))
    rows: list[Row] = []
    for label, members in groups.items():
        seeds = [row.info.seed for _, row in members]
        if len(members) == 1 or (None not in seeds and len(set(seeds)) == len(seeds)):
            rows.append(_average([row for _, row in members]))
        else:
            rows += [Row(f"{label} ({path})", row.info, 1, row.values, row.settings) for path, row in members]
    return rows


def _average(seeds: Sequence[Row]) -> Row:
    """Return the mean over seeds, on the benchmarks and questions that all of them have."""
    first = seeds[0]
    values: dict[str, dict[str, float]] = {}
    for benchmark in first.values:
        if all(benchmark in row.values for row in seeds):
            each = [row.values[benchmark] for row in seeds]
            shared = [question for question in each[0] if all(question in seed for seed in each)]
            values[benchmark] = {question: float(np.mean([seed[question] for seed in each])) for question in shared}
    settings = {benchmark: first.settings[benchmark] for benchmark in values}
    return Row(first.label, first.info, len(seeds), values, settings)
