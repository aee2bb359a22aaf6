"""Does a λ that was learned in one regime help in another, and what does an adversary do who pads right answers?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.lab.contrasts import Contrast
from benchmarks.lab.experiments.variants import change, find_rate
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import read_results
from benchmarks.lab.simulator.arms import ARMS, Arm
from benchmarks.lab.simulator.cells import Cell, run_cells
from benchmarks.lab.statistics import find_contrasts
from benchmarks.lab.store import is_done, read_cell

REGIMES = ("stuck", "failfast", "lost", "noise")
RULES = ("correlation", "balanced_correlation", "lambda_lr10")
PADDED = ("dapo", "grpo", "lambda", "correlation", "balanced_correlation")
ATTACK = Contrast("correlation", "dapo", "Does padding turn the correlation rule against its user?")
COMMAND = "python -m benchmarks.lab robustness"


def find_last_lambda(simulated: Path, regime: str, arm: str, num_seeds: int) -> float:
    """Return the mean over seeds of the λ with which `arm` ended in `regime`."""
    rows, _ = read_cell(simulated / "cells", Cell(regime=regime, arm=arm, num_seeds=num_seeds).name)
    return float(np.mean([curve[-1] for curve in rows["lam_curve"]]))


def freeze(arm: Arm, lam: float) -> Arm:
    """Return the arm with its λ fixed."""
    return replace(arm, rule="fixed", preference=replace(arm.preference, learn="fixed", init=lam))


def list_cells(simulated: Path, simulated_seeds: int, num_seeds: int) -> list[Cell]:
    """Return every rule's λ of every regime in every regime, and the padded regime."""
    cells = []
    for arm in RULES:
        for source in REGIMES:
            lam = find_last_lambda(simulated, source, arm, simulated_seeds)
            for target in REGIMES:
                rate = find_rate(simulated, target, arm, simulated_seeds)
                cells.append(change(target, arm, f"λ of {source}", freeze(ARMS[arm], lam), rate, num_seeds))
    for arm in PADDED:
        rate = find_rate(simulated, "stuck", arm, simulated_seeds)
        cells.append(Cell(regime="padded", arm=arm, rate=rate, num_seeds=num_seeds))
    return cells


def run(folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int, jobs: int) -> None:
    """Run what is missing."""
    run_cells(list_cells(simulated, simulated_seeds, num_seeds), folder / "cells", jobs)


def build_sections(folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int) -> list[Section]:
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", list_cells(simulated, simulated_seeds, num_seeds))
    transfer = Section("Robustness: λ learned elsewhere")
    transfer.add_text(
        f"A regime's last λ, fixed, in another regime ({num_seeds} seeds, the target's tuned rate for that rule). "
        "Accuracy in points; the diagonal is the regime's own λ."
    )
    for arm in RULES:
        found = {(each.cell.variant, each.cell.regime): each for each in results if each.cell.arm == arm}
        rows = []
        for source in REGIMES:
            lam = find_last_lambda(simulated, source, arm, simulated_seeds)
            cells = [found.get((f"λ of {source}", target)) for target in REGIMES]
            rows.append(
                [f"{source} (λ = {lam:+.2f})", *(f"{100 * each.accuracy.mean():.1f}" if each else "" for each in cells)]
            )
        transfer.add_table(["λ from", *REGIMES], rows, ARMS[arm].label)
    transfer.add_command(COMMAND)

    attack = Section("Robustness: an adversary that pads")
    padded = {each.cell.arm: each for each in results if each.cell.regime == "padded"}
    attack.add_text(
        "In stuck, half of the right responses are padded to the limit before f, Z and the correlation see them, so "
        "that right responses look long. Rates are those of stuck."
    )
    rows = []
    for arm, each in padded.items():
        name = Cell(regime="stuck", arm=arm, num_seeds=simulated_seeds).name
        clean = (
            read_cell(simulated / "cells", name)[0]["accuracy"][:num_seeds]
            if is_done(simulated / "cells", name)
            else []
        )
        rows.append(
            [
                each.label,
                f"{100 * np.mean(clean):.1f}",
                f"{100 * each.accuracy.mean():.1f}",
                f"{each.curve('lam')[:, -1].mean():+.2f}",
            ]
        )
    attack.add_table(["method", "not padded", "padded", "last λ"], rows, "Accuracy in points")
    if {"correlation", "dapo"} <= set(padded):
        scores = {arm: each.accuracy for arm, each in padded.items()}
        finding = find_contrasts("padded", [ATTACK], scores)[0]
        attack.add_text(
            f"Correlation rule minus DAPO: {100 * finding.difference:+.1f} points [{100 * finding.low:+.1f}, "
            f"{100 * finding.high:+.1f}]: {finding.verdict}."
        )
    attack.add_command(COMMAND)
    return [transfer, attack]
