"""The language model's part of the lab's page: scores, declared contrasts and curves, regime by regime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import MODEL_ARMS
from benchmarks.lab.experiments.model_results import OUTCOMES, read_regimes, summarize_regime
from benchmarks.lab.report.figures import bands, draw, save
from benchmarks.lab.report.page import Section

SCORES = (
    "method", "rate ×", "at the end", "over the run", "at equal tokens", "corr(ℓ, A)", "CV", "truncated at the end",
)  # fmt: skip
CONTRASTS = ("contrast", "points", "p (Holm)", "p (equivalent)", "verdict", "seeds for one point")


def build_sections(runs: Path, num_seeds: int, pictures: Path, command: str) -> list[Section]:
    """Return this experiment's part of the report."""
    sections = []
    for regime, (tuned, at_one_rate) in read_regimes(runs, num_seeds).items():
        summary = summarize_regime(regime, tuned, at_one_rate)
        section = Section(f"Language model: {regime}")
        section.add_text(
            f"{summary['about']}. {num_seeds} seeds, paired; intervals are over seeds, at the end over questions too."
        )
        _add_methods(section, regime, summary)
        curves = {method: each.curves for method, each in tuned.items() if method in MODEL_ARMS}
        _draw_curves(section, regime, curves, pictures)
        section.add_command(command)
        if "others" in summary:
            section.add_text("The other methods, with those that they are compared to:")
            _add_methods(section, f"{regime}, other methods", summary["others"])
            section.add_command(f"{command} --others")
        sections.append(section)
    return sections


def _add_methods(section: Section, name: str, summary: Mapping[str, Any]) -> None:
    """Add the scores of some methods, and their contrasts in every outcome, at the methods' own rates and at one."""
    _add_scores(section, name, summary)
    for where, found in ((name, summary), (f"{name} at one learning rate", summary["at_one_rate"])):
        for outcome, meaning in OUTCOMES.items():
            title = f"Declared contrasts in {where}, {outcome.replace('_', ' ')}: {meaning}"
            _add_contrasts(section, title, found["findings"][outcome])


def _add_scores(section: Section, name: str, summary: Mapping[str, Any]) -> None:
    rows = [
        [
            method, f"{row['factor']:g}", *(_show_mean(row.get(outcome)) for outcome in OUTCOMES),
            f"{row['start_correlation']:+.2f} → {row['end_correlation']:+.2f}", f"{row['cv']:.2f}",
            f"{100 * row['end_truncated']:.0f} %",
        ]
        for method, row in summary["methods"].items()
    ]  # fmt: skip
    section.add_table(list(SCORES), rows, f"Scores in {name}, in points")


def _add_contrasts(section: Section, title: str, findings: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [
            f"{each['arm']} − {each['baseline']}",
            f"{100 * each['difference']:+.1f} [{100 * each['low']:+.1f}, {100 * each['high']:+.1f}]",
            f"{each['p_holm']:.3f}", f"{each['p_equivalence']:.3f}", each["verdict"],
            str(each["seeds_for_a_point"] or "> 100,000"),
        ]
        for each in findings
    ]  # fmt: skip
    if rows:
        section.add_table(list(CONTRASTS), rows, title)


def _show_mean(scores: list[float] | None) -> str:
    return "" if scores is None else f"{100 * np.mean(scores):.1f}"


def _draw_curves(section: Section, regime: str, curves: dict[str, NDArray[np.float64]], pictures: Path) -> None:
    figure, (axes,) = draw(7.0, 3.2)
    length = min(curve.shape[1] for curve in curves.values())
    bands(axes, list(range(1, length + 1)), {method: curve[:, :length] for method, curve in curves.items()})
    axes.set(xlabel="update", ylabel="score of training responses")
    axes.legend(fontsize=8)
    section.add_figure(save(figure, pictures, f"model_{regime}"), f"Training score in {regime}.")
