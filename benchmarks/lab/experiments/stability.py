"""How training behaves: entropy, KL from the start, gradient norm, verbosity, collapse, the last step and the best.

It reads the cells of `simulate` and runs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.experiments import simulate
from benchmarks.lab.report.figures import bands, draw, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import Result, by_regime, read_results
from lambda_grpo_pl.evaluation.intervals import wilson_interval

ARMS = ("dapo", "grpo", "dr_grpo", "balanced", "lambda", "lambda_lr10", "correlation", "balanced_correlation")
COLLAPSE = 0.5
"""A run has collapsed if its last block is below this share of its best block."""
COMMAND = "python -m benchmarks.lab stability"


def describe(result: Result) -> dict[str, Any]:
    """Return one method's stability in one regime."""
    curve = result.curve("accuracy")
    collapsed = int((curve[:, -1] < COLLAPSE * curve.max(1)).sum())
    drop = curve.max(1) - curve[:, -1]
    return {
        "label": result.label,
        "entropy": [float(result.mean("entropy")[0]), float(result.mean("entropy")[-1])],
        "kl": float(result.mean("kl")[-1]),
        "grad_norm": [float(result.mean("grad_norm")[0]), float(result.mean("grad_norm")[-1])],
        "length": [float(result.mean("length")[0]), float(result.mean("length")[-1])],
        "length_right": [float(result.mean("length_right")[0]), float(result.mean("length_right")[-1])],
        "collapse": list(wilson_interval(collapsed, len(curve))),
        "drop": [float(drop.mean()), 1.98 * float(drop.std(ddof=1)) / len(drop) ** 0.5],
        "prefix_bias": float(result.mean("prefix_bias").mean()),
        "sign_balance": float(result.mean("sign_balance").mean()),
    }


def summarize(results: list[Result]) -> dict[str, Any]:
    """Return regime → method → stability."""
    return {
        regime: {name: describe(arms[name]) for name in ARMS if name in arms}
        for regime, arms in by_regime(results).items()
    }


def build_sections(folder: Path, num_seeds: int, pictures: Path) -> list[Section]:
    """Return this experiment's part of the report."""
    results = read_results(folder / "cells", simulate.list_cells(num_seeds))
    section = Section("Stability")
    section.add_text(
        "First block → last block. Drop: best block minus last block, in points. Collapse: share of the seeds whose "
        f"last block is below {COLLAPSE:g} of their best, with its 95 % interval. b is the prefix bias Σ f A / Σ |f "
        "A|, s the sign balance (P − N)/(P + N), both averaged over the run."
    )
    header = ["method", "entropy", "KL", "gradient norm", "length", "right length", "drop", "collapse", "b", "s"]
    for regime, arms in summarize(results).items():
        rows = [
            [
                each["label"], "{:.2f} → {:.2f}".format(*each["entropy"]), f"{each['kl']:.2f}",
                "{:.4f} → {:.4f}".format(*each["grad_norm"]), "{:.0f} → {:.0f}".format(*each["length"]),
                "{:.0f} → {:.0f}".format(*each["length_right"]),
                "{:.1f} ± {:.1f}".format(*(100 * value for value in each["drop"])),
                "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * value for value in each["collapse"])),
                f"{each['prefix_bias']:+.2f}", f"{each['sign_balance']:+.2f}",
            ]
            for each in arms.values()
        ]  # fmt: skip
        section.add_table(header, rows, f"Stability in {regime}")
    regimes = by_regime(results)
    for regime in ("stuck", "failfast"):
        arms = {name: regimes[regime][name] for name in ARMS[:4] + ARMS[6:] if name in regimes.get(regime, {})}
        if arms:
            figure, (left, right) = draw(8.5, 3.2, 2)
            steps = next(iter(arms.values())).cell.schedule
            updates = (np.arange(steps.num_blocks) + 1) * steps.num_updates / steps.num_blocks
            bands(left, updates.tolist(), {each.label: each.curve("accuracy") for each in arms.values()})
            bands(right, updates.tolist(), {each.label: each.curve("entropy") for each in arms.values()})
            left.set(xlabel="update", ylabel="accuracy", title=regime)
            right.set(xlabel="update", ylabel="entropy (nats)")
            left.legend(fontsize=7)
            caption = f"Accuracy and entropy in {regime}: mean and middle 80 % of the seeds."
            section.add_figure(save(figure, pictures, f"stability_{regime}"), caption)
    section.add_command(COMMAND)
    return [section]
