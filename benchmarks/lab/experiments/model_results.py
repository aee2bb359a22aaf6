"""What the language model's runs show: scores at the end and over the run, and the declared contrasts in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import MODEL
from benchmarks.lab.experiments.model import DONE, Run, find_curve, list_runs, read_factors, read_rows, read_scores
from benchmarks.lab.gate import Measured, measure
from benchmarks.lab.regimes import REGIMES
from benchmarks.lab.report.figures import bands, draw, save
from benchmarks.lab.report.page import Section
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


Methods = dict[str, Trained]
"""Method → what its runs left."""


def summarize(runs: Path, num_seeds: int) -> dict[str, Any]:
    """Return every number of the report, for the regimes in which some method has all its seeds."""
    found = read_regimes(runs, num_seeds)
    return {
        "num_seeds": num_seeds,
        "outcomes": OUTCOMES,
        "regimes": {regime: summarize_regime(regime, methods) for regime, methods in found.items()},
    }


def read_regimes(runs: Path, num_seeds: int) -> dict[str, Methods]:
    """Return regime → the methods whose reported seeds are all finished; a regime without one is left out."""
    whole = {regime: find_whole(regime, runs, num_seeds) for regime in REGIMES}
    return {
        regime: {method: read_method(each, runs) for method, each in found.items()}
        for regime, found in whole.items()
        if found
    }


def find_whole(regime: str, runs: Path, num_seeds: int) -> dict[str, list[Run]]:
    """Return the runs of the methods whose reported seeds are all finished, seed by seed."""
    found: dict[str, list[Run]] = {}
    for run in list_runs([regime], read_factors(runs, regime), range(num_seeds)):
        if (run.find_folder(runs) / DONE).exists():
            found.setdefault(run.method, []).append(run)
    return {method: each for method, each in found.items() if len(each) == num_seeds}


def read_method(runs_of_method: Sequence[Run], runs: Path) -> Trained:
    """Return what a method's runs left."""
    rows = [read_rows(run, runs) for run in runs_of_method]
    return Trained(
        factor=runs_of_method[0].factor,
        scores=np.stack([read_scores(run, runs) for run in runs_of_method]),
        curves=np.stack([find_curve(run.regime, each) for run, each in zip(runs_of_method, rows, strict=True)]),
        lengths=np.array([[row["response/length"] for row in each] for each in rows]),
        measured=[measure(each) for each in rows],
    )


def summarize_regime(regime: str, methods: Methods) -> dict[str, Any]:
    """Return a regime's methods and its contrasts in every outcome."""
    budget = min(float(each.lengths.sum(axis=1).min()) for each in methods.values())
    outcomes = {
        "end": {method: each.scores for method, each in methods.items()},
        "over_the_run": {method: each.curves.mean(axis=1) for method, each in methods.items()},
        "equal_tokens": {method: average_over_tokens(each, budget) for method, each in methods.items()},
    }
    return {
        "about": REGIMES[regime].about,
        "methods": {
            method: describe_method(each)
            | {name: _mean_of_seeds(values[method]).round(5).tolist() for name, values in outcomes.items()}
            for method, each in methods.items()
        },
        "findings": {
            name: [each.as_json() for each in find_contrasts(regime, MODEL, values)]
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


def build_sections(runs: Path, num_seeds: int, pictures: Path, command: str) -> list[Section]:
    """Return this experiment's part of the report."""
    sections = []
    for regime, methods in read_regimes(runs, num_seeds).items():
        section = _show_regime(regime, summarize_regime(regime, methods), num_seeds)
        _draw_curves(section, regime, {method: each.curves for method, each in methods.items()}, pictures)
        section.add_command(command)
        sections.append(section)
    return sections


def _show_regime(regime: str, summary: Mapping[str, Any], num_seeds: int) -> Section:
    section = Section(f"Language model: {regime}")
    section.add_text(
        f"{summary['about']}. {num_seeds} seeds, paired; intervals are over seeds, at the end over questions too."
    )
    rows = [
        [
            method, f"{row['factor']:g}", *(f"{100 * np.mean(row[outcome]):.1f}" for outcome in OUTCOMES),
            f"{row['start_correlation']:+.2f} → {row['end_correlation']:+.2f}", f"{row['cv']:.2f}",
            f"{100 * row['end_truncated']:.0f} %",
        ]
        for method, row in summary["methods"].items()
    ]  # fmt: skip
    header = [
        "method",
        "rate ×",
        "at the end",
        "over the run",
        "at equal tokens",
        "corr(ℓ, A)",
        "CV",
        "truncated at the end",
    ]
    section.add_table(header, rows, f"Scores in {regime}, in points")
    for outcome, meaning in OUTCOMES.items():
        rows = [
            [
                f"{each['arm']} − {each['baseline']}",
                f"{100 * each['difference']:+.1f} [{100 * each['low']:+.1f}, {100 * each['high']:+.1f}]",
                f"{each['p_holm']:.3f}", f"{each['p_equivalence']:.3f}", each["verdict"],
                str(each["seeds_for_a_point"] or "> 100,000"),
            ]
            for each in summary["findings"][outcome]
        ]  # fmt: skip
        header = ["contrast", "points", "p (Holm)", "p (equivalent)", "verdict", "seeds for one point"]
        section.add_table(header, rows, f"Declared contrasts in {regime}, {outcome.replace('_', ' ')}: {meaning}")
    return section


def _draw_curves(section: Section, regime: str, curves: dict[str, NDArray[np.float64]], pictures: Path) -> None:
    figure, (axes,) = draw(7.0, 3.2)
    length = min(curve.shape[1] for curve in curves.values())
    bands(axes, list(range(1, length + 1)), {method: curve[:, :length] for method, curve in curves.items()})
    axes.set(xlabel="update", ylabel="score of training responses")
    axes.legend(fontsize=8)
    section.add_figure(save(figure, pictures, f"model_{regime}"), f"Training score in {regime}.")
