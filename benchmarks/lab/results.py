"""Reading the simulator's cells back, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.simulator.cells import Cell
from benchmarks.lab.store import is_done, read_cell

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """A finished cell."""

    cell: Cell
    rows: dict[str, Any]
    """Column → one entry per seed (`cells.collect_rows`)."""
    record: dict[str, Any]

    @property
    def accuracy(self) -> Floats:
        """[seeds] of the final test."""
        return np.array(self.rows["accuracy"])

    @property
    def label(self) -> str:
        """What tables call the method."""
        return str(self.record["label"])

    def curve(self, name: str) -> Floats:
        """Return a curve of every seed, [seeds, blocks]."""
        return np.array(self.rows[f"{name}_curve"], dtype=np.float64)

    def mean(self, name: str) -> Floats:
        """Return a curve's mean over the seeds, [blocks]."""
        return np.array(self.record["mean"][name])


def read_results(folder: Path, cells: list[Cell]) -> list[Result]:
    """Return the cells that are finished, in the given order."""
    return [Result(cell, *read_cell(folder, cell.name)) for cell in cells if is_done(folder, cell.name)]


def by_regime(results: list[Result], optimizer: str = "sgd") -> dict[str, dict[str, Result]]:
    """Return regime → arm → result for one optimizer."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.cell.schedule.optimizer == optimizer:
            found.setdefault(result.cell.regime, {})[result.cell.arm + result.cell.variant] = result
    return found
