"""Quality against length: a length price on held-out data (λ does the work) or in the reward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.lab.experiments.variants import change, find_rate
from benchmarks.lab.report.figures import PALETTE, draw, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import read_results
from benchmarks.lab.simulator.arms import ARMS, Arm
from benchmarks.lab.simulator.cells import Cell, run_cells

REGIMES = ("lost", "noise")
PRICES = (0.0, 0.1, 0.3, 1.0)
COMMAND = "python -m benchmarks.lab pareto"


def list_controls() -> dict[str, tuple[str, Arm]]:
    """Return variant → (the arm whose tuned rate it uses, the changed arm)."""
    dapo, rule = ARMS["dapo"], ARMS["validation"]
    found: dict[str, tuple[str, Arm]] = {}
    for price in PRICES:
        found[f"reward − {price:g} tokens/limit"] = ("dapo", replace(dapo, length_price=price))
        found[f"reward / (1 + {price:g} ℓ/mean)"] = ("dapo", replace(dapo, relative_price=price))
        found[f"held-out price {price:g} (λ)"] = ("validation", replace(rule, heldout_price=price))
    return found


def list_cells(simulated: Path, simulated_seeds: int, num_seeds: int) -> list[Cell]:
    """Return all prices of all controls."""
    return [
        change(regime, arm, name, changed, find_rate(simulated, regime, arm, simulated_seeds), num_seeds)
        for name, (arm, changed) in list_controls().items()
        for regime in REGIMES
    ]


def run(folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int, jobs: int) -> None:
    """Run what is missing."""
    run_cells(list_cells(simulated, simulated_seeds, num_seeds), folder / "cells", jobs)


def build_sections(
    folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int, pictures: Path
) -> list[Section]:  # fmt: skip
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", list_cells(simulated, simulated_seeds, num_seeds))
    section = Section("Quality against length")
    section.add_text(
        f"Accuracy and mean length at the end ({num_seeds} seeds; DAPO's tuned rate for the reward-side controls, the "
        "validation rule's for the other). A price of 0 is the control itself."
    )
    found = {(each.cell.variant, each.cell.regime): each for each in results}
    rows = []
    for name in list_controls():
        cells = [found.get((name, regime)) for regime in REGIMES]
        rows.append(
            [name, *(f"{100 * c.accuracy.mean():.1f} ({np.mean(c.rows['length']):.0f})" if c else "" for c in cells)]
        )
    section.add_table(["control", *REGIMES], rows, "Accuracy in points, and in brackets the mean length")
    if results:
        figure, axes = draw(8.5, 3.4, len(REGIMES))
        for axis, regime in zip(axes, REGIMES, strict=True):
            for number, kind in enumerate(("reward −", "reward /", "held-out")):
                names = [name for name in list_controls() if name.startswith(kind)]
                cells = [found[name, regime] for name in names if (name, regime) in found]
                points = [(np.mean(each.rows["length"]), each.accuracy.mean()) for each in cells]
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", color=PALETTE[number], label=kind)
            axis.set(xlabel="mean length", ylabel="accuracy", title=regime)
        axes[0].legend(fontsize=8)
        section.add_figure(save(figure, pictures, "pareto"), "Accuracy against mean length; prices 0, 0.1, 0.3 and 1.")
    section.add_command(COMMAND)
    return [section]
