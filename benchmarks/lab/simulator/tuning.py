"""The learning rate of each method in each regime: the best of a stated grid, which is extended until it is inside.

A rate scores its mean accuracy minus its standard deviation over the seeds, averaged with the scores of the two rates
beside it. The highest rate that still works has a good mean on a few seeds by luck and fails on others; beside the edge
of what works it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.simulator.arms import Arm
from benchmarks.lab.simulator.machine import Machine
from benchmarks.lab.simulator.train import Schedule, train
from benchmarks.lab.statistics import smooth

CENTERS = {"sgd": 320.0, "adam": 0.02}
"""The grids are these rates times powers of 4, then of √2."""
STEP = 2.0**0.5
MOST_EXTENSIONS = 8
COARSE_SEEDS, FINE_SEEDS = 6, 24
TUNING_SEED, SECOND_TUNING_SEED = 1_000_000, 2_000_000
"""First seed of the tuning, far from the seeds that are reported; the second one is `dapo_again`'s."""

Accuracies = dict[float, NDArray[np.float64]]
"""Rate → one accuracy per seed."""


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
    """Find the best learning rate: in steps of 4 on few seeds, then in steps of √2 on more."""
    seeds = first_seed + np.arange(FINE_SEEDS)
    few, center = seeds[:COARSE_SEEDS], CENTERS[schedule.optimizer]
    coarse = _try(machine, arm, schedule, few, [center * 4.0**k for k in (-1, 0, 1)])
    coarse |= _extend(machine, arm, schedule, few, coarse, 4.0, _score)
    middle = _best(_score(coarse))
    fine = _try(machine, arm, schedule, seeds, [middle * STEP**k for k in (-2, -1, 0, 1, 2)])
    fine |= _extend(machine, arm, schedule, seeds, fine, STEP, _smooth)
    scores = _smooth(fine)
    rate = _best(scores)
    tried = [
        Tried(each, float(found.mean()), float(found.std(ddof=1)), len(found))
        for accuracies in (coarse, fine)
        for each, found in accuracies.items()
    ]
    return Tuning(rate, min(scores) < rate < max(scores), tried, fine[rate].tolist())


def _try(machine: Machine, arm: Arm, schedule: Schedule, seeds: NDArray[np.int64], rates: list[float]) -> Accuracies:
    """Return the accuracies of each rate's seeds."""
    curves = train(machine, arm, np.tile(seeds, len(rates)), np.repeat(rates, len(seeds)), schedule)
    return dict(zip(rates, curves.test["accuracy"].reshape(len(rates), -1), strict=True))


def _extend(
    machine: Machine, arm: Arm, schedule: Schedule, seeds: NDArray[np.int64], tried: Accuracies, factor: float,
    score: Callable[[Accuracies], dict[float, float]],
) -> Accuracies:  # fmt: skip
    """Return what has to be tried beside `tried` until the best score is not at an edge of the scores."""
    found: Accuracies = {}
    for _ in range(MOST_EXTENSIONS):
        scores = score(tried | found)
        best, rates = _best(scores), sorted(tried | found)
        if min(scores) < best < max(scores):
            break
        found |= _try(machine, arm, schedule, seeds, [rates[0] / factor if best == min(scores) else rates[-1] * factor])
    return found


def _score(accuracies: Accuracies) -> dict[float, float]:
    return {rate: float(found.mean() - found.std(ddof=1)) for rate, found in accuracies.items()}


def _smooth(accuracies: Accuracies) -> dict[float, float]:
    return smooth(_score(accuracies))


def _best(scores: Mapping[float, float]) -> float:
    return max(scores, key=lambda rate: scores[rate])
