"""The recommended rule on fresh seeds, also with a smaller bound: contrasts that were declared before these ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.lab.contrasts import ADAM_REGIMES, CONFIRM, CONFIRM_ARMS, CONFIRM_FIRST_SEED, REGIMES
from benchmarks.lab.experiments.simulate import compare_regimes, print_power, summarize_results
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import Result, read_results
from benchmarks.lab.simulator.cells import Cell, run_cells
from benchmarks.lab.simulator.train import Schedule


def list_cells(num_seeds: int) -> list[Cell]:
    """Return every method in every regime, and in those of Adam with Adam."""
    schedules = {"sgd": REGIMES, "adam": ADAM_REGIMES}
    return [
        Cell(
            regime=regime, arm=arm, num_seeds=num_seeds, first_seed=CONFIRM_FIRST_SEED,
            schedule=Schedule(optimizer=optimizer),  # type: ignore[arg-type]
        )
        for optimizer, regimes in schedules.items()
        for regime in regimes
        for arm in CONFIRM_ARMS
    ]  # fmt: skip


def run(folder: Path, num_seeds: int, jobs: int) -> None:
    """Run what is missing, and print what the seeds can show."""
    cells = list_cells(num_seeds)
    run_cells(cells, folder / "cells", jobs)
    print_power(read_results(folder / "cells", cells), num_seeds, CONFIRM)


def summarize(results: list[Result], num_seeds: int) -> dict[str, Any]:
    """Return every number of the report."""
    return summarize_results(results, num_seeds, CONFIRM)


def build_sections(folder: Path, num_seeds: int, pictures: Path) -> list[Section]:
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", list_cells(num_seeds))
    command = f"python -m benchmarks.lab confirm --seeds {num_seeds}"
    return [
        section
        for optimizer, regimes in summarize(results, num_seeds)["optimizers"].items()
        if regimes
        for section in compare_regimes(f"{optimizer}, confirmed", regimes, num_seeds, command, pictures, CONFIRM)
    ]
