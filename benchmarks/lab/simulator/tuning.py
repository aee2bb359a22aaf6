"""The learning rate of each method in each regime: the best of a stated grid, which is extended until it is inside.

Best is the largest mean accuracy minus its standard deviation over the seeds: the highest rate that still works has a
good mean on a few seeds by luck, and fails on others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.simulator.arms import Arm
from benchmarks.lab.simulator.machine import Machine
from benchmarks.lab.simulator.train import Schedule, train

CENTERS = {"sgd": 320.0, "adam": 0.02}
"""The grids are these rates times powers of 4, then of 2."""
MOST_EXTENSIONS = 8
COARSE_SEEDS, FINE_SEEDS = 6, 16
TUNING_SEED, SECOND_TUNING_SEED = 1_000_000, 2_000_000
"""First seed of the tuning, far from the seeds that are reported; the second one is `dapo_again`'s."""


@dataclass(frozen=True)
class Tried:
    """One learning rate, tried on the tuning seeds."""

    rate: float
    accuracy: float
    """Mean over the seeds at the end of training."""
    sd: float
    """Standard deviation over the seeds."""
    num_seeds: int


@dataclass(frozen=True)
class Tuning:
    """The chosen rate and everything that was tried."""

    rate: float
    is_interior: bool
    """Whether the rates next to the chosen one were tried and are worse."""
    tried: list[Tried]
    accuracies: list[float]
    """Of each tuning seed, at the chosen rate: for the power that is printed before the reported seeds run."""

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return asdict(self)


def tune(machine: Machine, arm: Arm, schedule: Schedule, first_seed: int = TUNING_SEED) -> Tuning:
    """Find the best learning rate: in steps of 4 on few seeds, then in steps of 2 on more."""
    seeds = first_seed + np.arange(FINE_SEEDS)
    center = CENTERS[schedule.optimizer]
    few = seeds[:COARSE_SEEDS]
    coarse = _search(machine, arm, schedule, few, [center * 4.0**k for k in (-1, 0, 1)], 4.0)
    middle = _best(coarse)
    fine = _search(machine, arm, schedule, seeds, [middle / 2, middle, middle * 2], 2.0)
    rate = _best(fine)
    tried = [Tried(each, float(found.mean()), float(found.std(ddof=1)), len(found)) for each, found in coarse.items()]
    tried += [Tried(each, float(found.mean()), float(found.std(ddof=1)), len(found)) for each, found in fine.items()]
    return Tuning(rate, min(fine) < rate < max(fine), tried, fine[rate].tolist())


def _search(
    machine: Machine, arm: Arm, schedule: Schedule, seeds: NDArray[np.int64], rates: list[float], factor: float
) -> dict[float, NDArray[np.float64]]:
    """Return the accuracies of each rate's seeds; the grid grows until its best rate is not at its edge."""
    found: dict[float, NDArray[np.float64]] = {}
    for _ in range(MOST_EXTENSIONS):
        curves = train(machine, arm, np.tile(seeds, len(rates)), np.repeat(rates, len(seeds)), schedule)
        parts = curves.test["accuracy"].reshape(len(rates), -1)
        found |= dict(zip(rates, parts, strict=True))
        best = _best(found)
        if min(found) < best < max(found):
            break
        rates = [best / factor if best == min(found) else best * factor]
    return found


def _best(found: dict[float, NDArray[np.float64]]) -> float:
    return max(found, key=lambda rate: found[rate].mean() - found[rate].std(ddof=1))
