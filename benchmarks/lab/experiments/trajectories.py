"""What λ does: its path, the slope it follows, and where each rule ends against the best fixed λ.

It reads the cells of `simulate` and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.experiments import simulate
from benchmarks.lab.report.figures import bands, draw, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import Result, by_regime, read_results

FIXED = {"power_-1.5": -1.5, "power_-1": -1.0, "power_-0.5": -0.5, "dapo": 0.0, "power_+0.5": 0.5}
"""The grid of fixed elasticities; DAPO is its 0."""
RULES = (
    "lambda", "lambda_lr1", "lambda_lr10", "linear", "relative_power", "validation", "contextual", "correlation",
    "balanced_correlation",
)  # fmt: skip
COMMAND = "python -m benchmarks.lab trajectories"


def find_elasticity(result: Result) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each seed's last λ as an elasticity d ln f / d ln ℓ at the mean length.

    For f ≈ 1 + λ r z with z = (ℓ − ℓ̄)/σ it is λ r ℓ̄/σ = λ r / CV, CV that of the whole batch at the end.
    """
    last = result.curve("lam")[:, -1]
    preference = result.record["preference"]
    if preference["family"] in ("relative_power", "batch_power", "balanced_power"):
        return last
    return np.asarray(last * preference["r"] / max(float(result.mean("cv")[-1]), 0.05))


def summarize(results: list[Result]) -> dict[str, Any]:
    """Return, per regime, the oracle's grid and where each rule ends."""
    found: dict[str, Any] = {}
    for regime, arms in by_regime(results).items():
        grid = {name: float(arms[name].accuracy.mean()) for name in FIXED if name in arms}
        rules = {}
        for name in RULES:
            if name in arms and len(grid) == len(FIXED):
                result = arms[name]
                oracle = arms[max(grid, key=lambda each: grid[each])]
                regret = result.accuracy - oracle.accuracy
                elasticity = find_elasticity(result)
                rules[name] = {
                    "label": result.label, "elasticity": float(elasticity.mean()), "sd": float(elasticity.std(ddof=1)),
                    "regret": float(regret.mean()), "half": 1.98 * float(regret.std(ddof=1)) / len(regret) ** 0.5,
                    "first_slope": float(result.curve("slope")[:, 0].mean()),
                }  # fmt: skip
        if grid:
            found[regime] = {"grid": grid, "rules": rules}
    return found


def build_sections(folder: Path, num_seeds: int, pictures: Path) -> list[Section]:
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", simulate.list_cells(num_seeds))
    summary = summarize(results)
    section = Section("What λ does")
    section.add_text(
        "Fixed weights ℓ^λ, normalized over the batch and each tuned, are the oracle: the best fixed elasticity. Each "
        "rule's last λ is shown as an elasticity (mean ± sd over seeds), with its regret: accuracy minus the "
        "oracle's, in points. The oracle is picked on the same seeds, which favors it slightly."
    )
    rows = [
        [regime, *(f"{100 * each['grid'][name]:.1f}" if name in each["grid"] else "" for name in FIXED)]
        for regime, each in summary.items()
    ]
    section.add_table(["regime", *(f"λ = {lam:g}" for lam in FIXED.values())], rows, "Accuracy of fixed λ, in points")
    names = [name for name in RULES if any(name in each["rules"] for each in summary.values())]
    labels = {name: each["rules"][name]["label"] for each in summary.values() for name in each["rules"]}
    rows = [[labels[name], *(_show_rule(each["rules"].get(name)) for each in summary.values())] for name in names]
    section.add_table(["rule", *summary], rows, "Last elasticity; regret against the best fixed λ, in points")
    _draw_paths(section, by_regime(results), pictures)
    section.add_command(COMMAND)
    return [section]


def _show_rule(rule: dict[str, float] | None) -> str:
    if rule is None:
        return ""
    return f"{rule['elasticity']:+.2f} ± {rule['sd']:.2f}; {100 * rule['regret']:+.1f} ± {100 * rule['half']:.1f}"


def _draw_paths(section: Section, regimes: Mapping[str, Mapping[str, Result]], pictures: Path) -> None:
    for regime in ("stuck", "failfast", "noise"):
        arms = {name: regimes.get(regime, {}).get(name) for name in ("lambda", "correlation", "validation")}
        present = {each.label: each for each in arms.values() if each is not None}
        if not present:
            continue
        first = next(iter(present.values()))
        updates = (np.arange(len(first.mean("lam"))) + 1) * first.cell.schedule.num_updates / len(first.mean("lam"))
        figure, (left, right) = draw(8.5, 3.2, 2)
        bands(left, updates.tolist(), {label: each.curve("lam") for label, each in present.items()})
        left.set(xlabel="update", ylabel="λ", title=regime)
        left.legend(fontsize=8)
        slopes = {label: each.curve("slope") for label, each in present.items() if each.cell.arm == "lambda"}
        bands(right, updates.tolist(), slopes)
        right.set(xlabel="update", ylabel="dJ/dλ", title="" if slopes else "the paper's rule has not run")
        section.add_figure(
            save(figure, pictures, f"lambda_{regime}"), f"λ in {regime}: mean and middle 80 % of the seeds."
        )
