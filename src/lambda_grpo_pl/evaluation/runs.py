"""Evaluations read back from their folders, as methods that can be compared question by question and seed by seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import EvaluationSetup, list_benchmarks, read_records, read_setup
from lambda_grpo_pl.evaluation.report import RUN, RunInfo
from lambda_grpo_pl.evaluation.resampling import Floats

INDEPENDENT_OF_MEASUREMENT = {"policy", "seed", "reward_reads"}
"""Fields of a setup in which runs may differ and still be measured in the same way."""


@dataclass(frozen=True, slots=True)
class MethodRuns:
    """One method on one model: a run, or several runs that differ in their seed."""

    label: str
    """Its name in tables."""
    info: RunInfo
    """Model, method and step; the seed is that of its first run."""
    seeds: tuple[int | None, ...]
    """Seed of each run."""
    values: dict[str, dict[str, tuple[float, ...]]]
    """Benchmark → question id → value of each run, averaged over responses; only what all its runs answered."""
    setups: dict[str, EvaluationSetup]
    """Benchmark → how it was asked."""

    def table(self, benchmark: str) -> Floats:
        """Return the values of all questions of a benchmark, [S, Q]."""
        return np.array(list(self.values[benchmark].values()), dtype=np.float64).T

    def pairs_seeds(self, other: MethodRuns) -> bool:
        """Return whether both methods ran the same seeds, so that runs can be paired."""
        return None not in self.seeds and set(self.seeds) == set(other.seeds)

    def pair(self, other: MethodRuns, benchmark: str) -> tuple[Floats, Floats]:
        """Return both methods' values on the questions that both answered, [S, Q] each, in one order.

        Runs are in the order of their seeds. Raises `UserError` if no question is shared.
        """
        shared = [question for question in self.values[benchmark] if question in other.values[benchmark]]
        if not shared:
            raise UserError(
                f"{self.label} and {other.label} share no question of {benchmark}: their ids differ, so evaluate both "
                "on the same file."
            )
        tables = [[each.values[benchmark][question] for question in shared] for each in (self, other)]
        first, second = (np.array(table, dtype=np.float64).T for table in tables)
        if self.pairs_seeds(other):
            first, second = first[_by_seed(self)], second[_by_seed(other)]
        return first, second


def find_evaluation(run: Path) -> Path:
    """Return a run's evaluation folder: the folder itself if it holds records, otherwise that of its last step.

    Raises `UserError` if there is none.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder: name the folder of a run, which is its trainer.default_root_dir.")
    if list_benchmarks(run):
        return run
    candidates = [file.parent for file in run.rglob(RUN) if list_benchmarks(file.parent)]
    if not candidates:
        raise UserError(f"{run} holds no evaluation: run `lambda-grpo validate` there first, or fix the path.")
    return max(candidates, key=lambda folder: (read_info(folder).step, folder.stat().st_mtime))


def read_info(folder: Path) -> RunInfo:
    """Return whose evaluation a folder holds; all fields are unknown if it has no `run.json`."""
    file = folder / RUN
    return RunInfo(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else RunInfo()


def read_run(run: str | Path) -> MethodRuns:
    """Return one run, named after its folder if its model and method are unknown."""
    folder = find_evaluation(Path(run))
    info = read_info(folder)
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    setups: dict[str, EvaluationSetup] = {}
    for benchmark in list_benchmarks(folder):
        setup = read_setup(benchmark)
        measured = "correct" if setup.metric == "accuracy" else "scores"
        records = read_records(benchmark)
        values[setup.benchmark] = {record.id: (float(np.mean(getattr(record, measured))),) for record in records}
        setups[setup.benchmark] = setup
    return MethodRuns(info.label or Path(run).resolve().name, info, (info.seed,), values, setups)


def read_methods(runs: Sequence[str | Path]) -> tuple[list[MethodRuns], list[str]]:
    """Return one entry per model and method, and notes on runs of one method that were measured differently.

    Runs that differ only in their seed are grouped. Runs with the same label and the same seed, or without one, stay
    separate and are labeled with their folders.
    """
    groups: dict[str, list[tuple[Path, MethodRuns]]] = defaultdict(list)
    for run in runs:
        read = read_run(run)
        groups[read.label].append((Path(run), read))
    methods: list[MethodRuns] = []
    notes: list[str] = []
    for label, members in groups.items():
        seeds = [seed for _, read in members for seed in read.seeds]
        if len(members) == 1 or (None not in seeds and len(set(seeds)) == len(seeds)):
            methods.append(_group([read for _, read in members]))
            notes += _notes_within([read for _, read in members])
        else:
            methods += [
                MethodRuns(f"{label} ({path})", read.info, read.seeds, read.values, read.setups)
                for path, read in members
            ]
    return methods, notes


def describe_difference(one: EvaluationSetup, other: EvaluationSetup) -> str:
    """Return the fields in which two measurements differ, with both values; empty if they are the same measurement."""
    names = [each.name for each in fields(one) if each.name not in INDEPENDENT_OF_MEASUREMENT]
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in names)
    return ", ".join(f"{name} ({_show(first)}; {_show(second)})" for name, first, second in pairs if first != second)


def _group(runs: Sequence[MethodRuns]) -> MethodRuns:
    """Return the runs of several seeds as one entry, on the benchmarks and questions that all of them have."""
    first = runs[0]
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    for benchmark in first.values:
        if all(benchmark in run.values for run in runs):
            each = [run.values[benchmark] for run in runs]
            shared = [question for question in each[0] if all(question in run for run in each)]
            values[benchmark] = {question: tuple(run[question][0] for run in each) for question in shared}
    setups = {benchmark: first.setups[benchmark] for benchmark in values}
    return MethodRuns(first.label, first.info, tuple(run.info.seed for run in runs), values, setups)


def _notes_within(runs: Sequence[MethodRuns]) -> list[str]:
    """Return what differs between the runs of one method."""
    first, notes = runs[0], []
    for run in runs[1:]:
        for benchmark in first.setups.keys() & run.setups.keys():
            if differing := describe_difference(first.setups[benchmark], run.setups[benchmark]):
                seeds = f"seeds {first.info.seed} and {run.info.seed}"
                notes.append(f"{benchmark}: {seeds} of {first.label} differ in {differing}: not the same measurement.")
    return sorted(notes)


def _by_seed(method: MethodRuns) -> list[int]:
    return sorted(range(len(method.seeds)), key=lambda row: method.seeds[row] or 0)


def _show(value: object) -> object:
    return "not recorded" if value == "" else value
