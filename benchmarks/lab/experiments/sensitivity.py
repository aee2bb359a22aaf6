"""How λ-GRPO and the correlation rules react to their settings, in regimes with opposite length gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.lab.experiments.variants import change, find_rate
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import Result, read_results
from benchmarks.lab.simulator.arms import ARMS, Arm
from benchmarks.lab.simulator.cells import Cell, run_cells
from benchmarks.lab.simulator.train import Schedule
from lambda_grpo_pl.objective import SurrogateConfig

REGIMES = ("stuck", "failfast", "lost")
COMMAND = "python -m benchmarks.lab sensitivity"


def list_variants() -> dict[str, tuple[str, Arm]]:
    """Return variant → (the arm whose tuned rate it uses, the changed arm)."""
    paper, rule = ARMS["lambda"], ARMS["correlation"]

    def of_paper(**settings: float) -> Arm:
        return replace(paper, preference=replace(paper.preference, **settings))

    variants = {f"λ's rate {rate:g}": ("lambda", of_paper(lr=rate)) for rate in (0.01, 0.1, 1.0, 10.0)}
    variants |= {f"λ starts at {init:g}": ("lambda", of_paper(init=init)) for init in (-2.0, 2.0)}
    variants |= {f"r = {r:.3g}, λ's rate 1": ("lambda", of_paper(r=r, lr=1.0)) for r in (1 / 30, 1 / 3)}
    variants["Z over the batch"] = ("lambda", replace(paper, token_count="global"))
    for gain in (1.0, 3.0, 10.0):
        changed = replace(rule, correlation=replace(rule.correlation, gain=gain))
        variants[f"correlation, κ = {gain:g}"] = ("correlation", changed)
    for memory in (0.0, 0.99):
        changed = replace(rule, correlation=replace(rule.correlation, memory=memory))
        variants[f"correlation, memory {memory:g}"] = ("correlation", changed)
    changed = replace(rule, correlation=replace(rule.correlation, high=1.0))
    variants["correlation, λ up to +1"] = ("correlation", changed)
    balanced = ARMS["balanced_correlation"]
    for balance in (0.0, 0.25, 0.5, 0.75, 1.0):
        changed = replace(balanced, preference=replace(balanced.preference, balance=balance))
        variants[f"balanced, β = {balance:g}"] = ("balanced_correlation", changed)
    changed = replace(balanced, correlation=replace(balanced.correlation, low=-1.5))
    variants["balanced, λ down to −1.5"] = ("balanced_correlation", changed)
    return variants


def list_schedules() -> dict[str, tuple[Schedule, tuple[str, ...]]]:
    """Return shape of the rollout → (schedule, arms); each is tuned anew."""
    arms = ("dapo", "grpo", "lambda", "correlation")
    return {
        "G = 4": (Schedule(num_prompts=64, group_size=4), arms),
        "G = 16": (Schedule(num_prompts=16, group_size=16), arms),
        "4 updates per rollout": (Schedule(num_epochs=2, num_minibatches=2), (*arms, "gspo", "luspo")),
    }


SEQUENCE = {
    "gspo": replace(ARMS["grpo"], label="GSPO", surrogate=SurrogateConfig(
        ratio_level="sequence", clip_low=3e-4, clip_high=4e-4)),
    "luspo": replace(ARMS["dr_grpo"], label="LUSPO", advantage=ARMS["grpo"].advantage, surrogate=SurrogateConfig(
        ratio_level="sequence", clip_low=2e-3, clip_high=2.5e-3)),
}  # fmt: skip
"""Sequence-level ratios differ from GRPO and Dr. GRPO only with several updates per rollout."""


def list_cells(simulated: Path, simulated_seeds: int, num_seeds: int) -> list[Cell]:
    """Return settings first, then shapes of the rollout."""
    cells = [
        change(regime, arm, name, changed, find_rate(simulated, regime, arm, simulated_seeds), num_seeds)
        for name, (arm, changed) in list_variants().items()
        for regime in REGIMES
    ]
    return cells + [
        replace(change(regime, arm, name, SEQUENCE.get(arm) or ARMS[arm], None, num_seeds), schedule=schedule)
        for name, (schedule, arms) in list_schedules().items()
        for arm in arms
        for regime in REGIMES[:2]
    ]


def run(folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int, jobs: int) -> None:
    """Run what is missing."""
    run_cells(list_cells(simulated, simulated_seeds, num_seeds), folder / "cells", jobs)


def build_sections(folder: Path, simulated: Path, simulated_seeds: int, num_seeds: int) -> list[Section]:
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", list_cells(simulated, simulated_seeds, num_seeds))
    settings = Section("Sensitivity: settings of λ")
    settings.add_text(
        f"{num_seeds} seeds at the policy's learning rate that simulate found for the method; the policy is not tuned "
        "again. Accuracy in points ± half of the 95 % interval, and the last λ."
    )
    found = {(each.cell.variant, each.cell.regime): each for each in results if each.cell.variant in list_variants()}
    rows = [[name, *(_show(found.get((name, regime))) for regime in REGIMES)] for name in list_variants()]
    settings.add_table(["setting", *REGIMES], rows, "The paper's rule and the correlation rules, one setting changed")
    settings.add_command(COMMAND)

    shapes = Section("Sensitivity: group size and updates per rollout")
    shapes.add_text("256 responses per rollout throughout; every method is tuned anew for every shape.")
    keys = list(dict.fromkeys((each.cell.variant, each.label) for each in results if each.cell.rate is None))
    of_shape = {(each.cell.variant, each.label, each.cell.regime): each for each in results if each.cell.rate is None}
    rows = [
        [f"{shape}: {label}", *(_show(of_shape.get((shape, label, regime))) for regime in REGIMES[:2])]
        for shape, label in keys
    ]
    shapes.add_table(["rollout and method", *REGIMES[:2]], rows, "Accuracy in points, and the last λ")
    shapes.add_command(COMMAND)
    return [settings, shapes]


def _show(result: Result | None) -> str:
    if result is None:
        return ""
    accuracy = result.accuracy
    half = 1.98 * accuracy.std(ddof=1) / np.sqrt(len(accuracy))
    return f"{100 * accuracy.mean():.1f} ± {100 * half:.1f} (λ {result.curve('lam')[:, -1].mean():+.2f})"
