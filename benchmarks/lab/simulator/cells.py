"""Cells: one method in one regime, tuned and run on the reported seeds, resumable and in parallel."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab.simulator.arms import Arm, find_arm
from benchmarks.lab.simulator.machine import find_machine
from benchmarks.lab.simulator.measure import Curves
from benchmarks.lab.simulator.train import Schedule, train
from benchmarks.lab.simulator.tuning import SECOND_TUNING_SEED, TUNING_SEED, Tuning, tune
from benchmarks.lab.store import is_done, write_cell

CHUNK = 64
"""Runs that are trained at once; it changes no result."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one file of results holds."""

    regime: str
    arm: str
    num_seeds: int
    schedule: Schedule = field(default_factory=Schedule)
    variant: str = ""
    """Name of a changed arm or schedule, where an experiment changes one."""
    changed_arm: Arm | None = None
    """The arm to run instead of the one called `arm`."""
    rate: float | None = None
    """The learning rate; None tunes it."""
    first_seed: int = 0
    """The seeds are this one and those that follow it."""

    @property
    def name(self) -> str:
        """The file's name; the number of seeds is part of it, so that asking for more makes a new file."""
        seeds = f"{self.num_seeds}-from-{self.first_seed}" if self.first_seed else f"{self.num_seeds}"
        parts = [self.regime, self.arm, self.variant, self.schedule.optimizer, seeds]
        return "__".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts if part)

    def find_arm(self) -> Arm:
        """Return the arm that runs."""
        return self.changed_arm or find_arm(self.arm)


def run_cells(
    cells: Iterable[Cell], folder: Path, jobs: int, work: Callable[[Cell, Path], str] | None = None
) -> None:  # fmt: skip
    """Run the cells that have no file yet, `jobs` at a time, and print a line for each.

    `work` writes a cell's file and returns its line; None is `run_cell`.
    """
    waiting = [cell for cell in cells if not is_done(folder, cell.name)]
    tasks = [(work or run_cell, cell, folder) for cell in waiting]
    if not tasks:
        return
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(tasks)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number, line in enumerate(pool.imap_unordered(_run_task, tasks), 1):
            print(f"[{number}/{len(tasks)}, {time.monotonic() - started:.0f} s] {line}", flush=True)


def _run_task(task: tuple[Callable[[Cell, Path], str], Cell, Path]) -> str:
    work, cell, folder = task
    return work(cell, folder)


def run_cell(cell: Cell, folder: Path) -> str:
    """Tune and run one cell, write its file, and return a sentence about it."""
    machine, arm, started = find_machine(cell.regime), cell.find_arm(), time.process_time()
    tuning = None
    if cell.rate is None:
        first = SECOND_TUNING_SEED if cell.arm == "dapo_again" else TUNING_SEED
        tuning = tune(machine, replace(arm, placebo=False), cell.schedule, first)
    rate = tuning.rate if tuning else cell.rate
    assert rate is not None
    parts = []
    last = cell.first_seed + cell.num_seeds
    for start in range(cell.first_seed, last, CHUNK):
        seeds = np.arange(start, min(start + CHUNK, last))
        rates = np.full(len(seeds), rate)
        path = train(machine, arm, seeds + 500_000, rates, cell.schedule).path if arm.placebo else None
        parts.append(train(machine, arm, seeds, rates, cell.schedule, path))
    rows = collect_rows(parts, cell.first_seed)
    accuracy = np.array(rows["accuracy"])
    record = {
        "regime": cell.regime, "arm": cell.arm, "label": arm.label, "variant": cell.variant,
        "schedule": asdict(cell.schedule), "num_seeds": cell.num_seeds, "rate": rate,
        "preference": asdict(arm.preference), "token_count": arm.token_count,
        "tuning": tuning.as_json() if tuning else None, "mean": mean_curves(parts),
        "accuracy": {"mean": float(accuracy.mean()), "sd": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else 0.0},
        "seconds": round(time.process_time() - started, 2),
    }  # fmt: skip
    write_cell(folder, cell.name, rows, record)
    return _describe(cell, record, tuning)


def collect_rows(parts: Sequence[Curves], first_seed: int = 0) -> dict[str, list[Any]]:
    """Return one entry per seed: the final test, and the curves that are compared seed by seed."""
    final = {name: np.concatenate([part.test[name] for part in parts]) for name in parts[0].test}
    rows: dict[str, list[Any]] = {"seed": [first_seed + n for n in range(len(final["accuracy"]))]}
    rows |= {name: values.tolist() for name, values in final.items()}
    for name in ("accuracy", "tokens", "lam", "slope", "entropy", "grad_norm"):
        curves = np.concatenate([part.values[name] for part in parts], axis=1).T.astype(np.float32)
        rows[f"{name}_curve"] = curves.tolist()
    return rows


def mean_curves(parts: Sequence[Curves]) -> dict[str, list[float]]:
    """Return every recorded curve's mean over the seeds, rounded."""
    names = parts[0].values
    stacked = {name: np.concatenate([part.values[name] for part in parts], axis=1) for name in names}
    return {name: [round(float(value), 6) for value in _mean_of_known(curves)] for name, curves in stacked.items()}


def _mean_of_known(curves: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """Return the mean over seeds of each block, seeds without a value (no right response, say) left out."""
    known = ~np.isnan(curves)
    sums = np.where(known, curves, 0.0).sum(1)
    return [float(total / count) if count else 0.0 for total, count in zip(sums, known.sum(1), strict=True)]


def _describe(cell: Cell, record: dict[str, Any], tuning: Tuning | None) -> str:
    edge = "" if tuning is None or tuning.is_interior else ", AT THE EDGE OF THE GRID"
    return (
        f"{cell.name}: accuracy {record['accuracy']['mean']:.3f} ± {record['accuracy']['sd']:.3f} (sd), "
        f"rate {record['rate']:g}{edge}, {record['seconds']:.0f} s"
    )
