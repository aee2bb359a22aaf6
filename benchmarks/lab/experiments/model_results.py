"""What the language model's runs show: scores at the end and over the run, and the declared contrasts in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import MODEL, MODEL_ARMS, MODEL_OTHER_ARMS, MODEL_OTHERS, Contrast
from benchmarks.lab.experiments.model import (
    DONE,
    Run,
    find_common_factor,
    find_curve,
    list_runs,
    read_factors,
    read_rows,
    read_scores,
)
from benchmarks.lab.gate import Measured, measure
from benchmarks.lab.regimes import REGIMES
from benchmarks.lab.statistics import find_contrasts

OUTCOMES = {
    "end": "after the last update, on held-out questions",
    "over_the_run": "mean of all updates' responses",
    "equal_tokens": "mean over as many sampled tokens as the regime's shortest run has",
}
"""Outcome → what it is."""


@dataclass(frozen=True)
class Trained:
    """What the runs of a method left, seed by seed."""

    factor: float
    """Times the regime's learning rate."""
    scores: NDArray[np.float64]
    """[seeds, questions] of the last evaluation."""
    curves: NDArray[np.float64]
    """[seeds, updates] of the training responses."""
    lengths: NDArray[np.float64]
    """[seeds, updates] their mean length; all updates have equally many."""
    measured: list[Measured]
    resamples: bool = False
    """Responses were sampled that are not counted here, in place of groups that teach nothing."""


Methods = dict[str, Trained]
"""Method → what its runs left."""


def summarize(runs: Path, num_seeds: int) -> dict[str, Any]:
    """Return every number of the report, for the regimes in which some method has all its seeds."""
    found = read_regimes(runs, num_seeds)
    return {
        "num_seeds": num_seeds,
        "outcomes": OUTCOMES,
        "regimes": {regime: summarize_regime(regime, *methods) for regime, methods in found.items()},
    }


def read_regimes(runs: Path, num_seeds: int) -> dict[str, tuple[Methods, Methods]]:
    """Return regime → the methods whose reported seeds are all finished, each at its own rate, and all at one.

    A regime without any is left out.
    """
    found = {}
    for regime in REGIMES:
        own = read_factors(runs, regime)
        common = find_common_factor(own)
        tuned = read_methods(regime, own, runs, num_seeds)
        if tuned:
            moved = {method: common for method, factor in own.items() if factor != common}
            at_one_rate = {method: each for method, each in tuned.items() if method not in moved}
            found[regime] = tuned, at_one_rate | read_methods(regime, moved, runs, num_seeds)
    return found


def read_methods(regime: str, factors: Mapping[str, float], runs: Path, num_seeds: int) -> Methods:
    """Return the methods whose reported seeds are all finished at these factors."""
    found: dict[str, list[Run]] = {}
    for run in list_runs([regime], factors, range(num_seeds)):
        if (run.find_folder(runs) / DONE).exists():
            found.setdefault(run.method, []).append(run)
    return {method: read_method(each, runs) for method, each in found.items() if len(each) == num_seeds}


def read_method(runs_of_method: Sequence[Run], runs: Path) -> Trained:
    """Return what a method's runs left."""
    rows = [read_rows(run, runs) for run in runs_of_method]
    return Trained(
        factor=runs_of_method[0].factor,
        scores=np.stack([read_scores(run, runs) for run in runs_of_method]),
        curves=np.stack([find_curve(run.regime, each) for run, each in zip(runs_of_method, rows, strict=True)]),
        lengths=np.array([[row["response/length"] for row in each] for each in rows]),
        measured=[measure(each) for each in rows],
        resamples="dynamic_sampling/rounds" in rows[0][0],
    )


def summarize_regime(regime: str, tuned: Methods, at_one_rate: Methods) -> dict[str, Any]:
    """Return a regime's methods and its contrasts in every outcome; the other methods with their baselines apart."""

    def both(names: Sequence[str], contrasts: Sequence[Contrast]) -> dict[str, Any]:
        own, alike = (summarize_methods(regime, names, contrasts, each) for each in (tuned, at_one_rate))
        return own | {"at_one_rate": alike}

    found = {"about": REGIMES[regime].about} | both(MODEL_ARMS, MODEL)
    if any(method in tuned for method in MODEL_OTHER_ARMS):
        compared = {name for arm, baseline, _ in MODEL_OTHERS for name in (arm, baseline)}
        baselines = [method for method in MODEL_ARMS if method in compared]
        found["others"] = both((*MODEL_OTHER_ARMS, *baselines), MODEL_OTHERS)
    return found


def summarize_methods(
    regime: str, names: Sequence[str], contrasts: Sequence[Contrast], trained: Methods
) -> dict[str, Any]:
    """Return the scores of the methods that have been trained, and the contrasts between them, in every outcome.

    A method that samples again has no score at equal tokens.
    """
    methods = {name: trained[name] for name in names if name in trained}
    counted = {method: each for method, each in methods.items() if not each.resamples}
    budget = min((float(each.lengths.sum(axis=1).min()) for each in counted.values()), default=0.0)
    outcomes = {
        "end": {method: each.scores for method, each in methods.items()},
        "over_the_run": {method: each.curves.mean(axis=1) for method, each in methods.items()},
        "equal_tokens": {method: average_over_tokens(each, budget) for method, each in counted.items()},
    }
    return {
        "methods": {
            method: describe_method(each)
            | {
                name: _mean_of_seeds(values[method]).round(5).tolist()
                for name, values in outcomes.items()
                if method in values
            }
            for method, each in methods.items()
        },
        "findings": {
            name: [each.as_json() for each in find_contrasts(regime, contrasts, values)]
            for name, values in outcomes.items()
        },
    }


def average_over_tokens(trained: Trained, budget: float) -> NDArray[np.float64]:
    """Return each seed's mean score over the first tokens that it sampled, [seeds].

    `budget` is their number over that of an update's responses, in the unit of `Trained.lengths`.
    """
    before = trained.lengths.cumsum(axis=1) - trained.lengths
    share = np.clip(budget - before, 0.0, trained.lengths)
    return np.asarray((share * trained.curves).sum(axis=1) / share.sum(axis=1))


def _mean_of_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one number a seed from [seeds] or [seeds, questions]."""
    return values if values.ndim == 1 else np.asarray(values.mean(axis=1))


def describe_method(trained: Trained) -> dict[str, float]:
    """Return a method's factor and its lengths, averaged over the seeds."""
    names = ("start_accuracy", "start_correlation", "end_correlation", "cv", "end_truncated")
    means = {name: round(float(np.mean([getattr(each, name) for each in trained.measured])), 4) for name in names}
    return {"factor": trained.factor} | means
