"""Which method is best in which regime: every method tuned in every regime, on many fresh paired seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.contrasts import ADAM_ARMS, ADAM_REGIMES, CORE, EXTRA, MARGIN, REGIMES, SIMULATE, Contrast
from benchmarks.lab.report.figures import draw, heat, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import Result, by_regime, read_results
from benchmarks.lab.simulator.arms import find_arm
from benchmarks.lab.simulator.cells import Cell, run_cells
from benchmarks.lab.simulator.machine import MACHINES
from benchmarks.lab.simulator.train import Schedule
from benchmarks.lab.statistics import Finding, at_equal_tokens, describe_power, find_contrasts

NULLS = {"equal", "shuffled"}
NULL_ARMS = ("dapo", "grpo", "balanced_correlation", "correlation", "lambda", "lambda_lr10", "dr_grpo")
GATE = 0.3
"""Length matters in a regime if |corr(ℓ, A)| is at least this, early and at two thirds of DAPO's run."""


def list_cells(num_seeds: int) -> list[Cell]:
    """Return the cells in the order in which they run: the methods of the contrasts before the others."""
    adam = Schedule(optimizer="adam")
    cells = [
        Cell(regime=regime, arm=arm, num_seeds=num_seeds)
        for arm in CORE
        for regime in REGIMES
        if regime not in NULLS or arm in NULL_ARMS
    ]
    cells += [
        Cell(regime=regime, arm=arm, num_seeds=num_seeds, schedule=adam) for regime in ADAM_REGIMES for arm in ADAM_ARMS
    ]
    return cells + [
        Cell(regime=regime, arm=arm, num_seeds=num_seeds) for arm in EXTRA for regime in REGIMES if regime not in NULLS
    ]


def run(folder: Path, num_seeds: int, jobs: int) -> None:
    """Run what is missing."""
    run_cells(list_cells(num_seeds), folder / "cells", jobs)


def print_power(results: list[Result], num_seeds: int, contrasts: Sequence[Contrast] = SIMULATE) -> None:
    """Print what the reported seeds can show, from the tuning seeds alone."""
    for regime, arms in by_regime(results).items():
        tuned = {name: np.array(each.record["tuning"]["accuracies"]) for name, each in arms.items()}
        for contrast in contrasts:
            if contrast.arm in tuned and contrast.baseline in tuned and contrast.arm != "dapo_again":
                sd = float((tuned[contrast.arm] - tuned[contrast.baseline]).std(ddof=1))
                print(describe_power(f"{regime}, {contrast.arm} − {contrast.baseline}", sd, num_seeds))


def find_all(
    arms: Mapping[str, Result], regime: str, contrasts: Sequence[Contrast]
) -> dict[str, list[Finding]]:  # fmt: skip
    """Return the declared contrasts at equal updates and at equal sampled tokens."""
    declared = {name for contrast in contrasts for name in contrast[:2]}
    compared = {name: each for name, each in arms.items() if name in declared}
    _, equal = at_equal_tokens(
        {name: (each.curve("accuracy"), each.curve("tokens")) for name, each in compared.items()}
    )
    return {
        "updates": find_contrasts(regime, contrasts, {name: each.accuracy for name, each in compared.items()}),
        "tokens": find_contrasts(regime, contrasts, equal),
    }


def measure_regime(dapo: Result) -> dict[str, float | bool]:
    """Return a regime's lengths as measured under DAPO: at the start, at two thirds, and at the end."""
    correlation = dapo.mean("correlation")
    late = 2 * len(correlation) // 3
    measured = {
        "accuracy_start": dapo.mean("accuracy")[0], "accuracy_end": float(dapo.accuracy.mean()),
        "cv": dapo.mean("cv")[0], "length_right": dapo.mean("length_right")[0],
        "length_wrong": dapo.mean("length_wrong")[0], "truncated": dapo.mean("truncated")[0],
        "truncated_end": dapo.mean("truncated")[-1], "signal": dapo.mean("signal").mean(),
        "correlation_start": correlation[0], "correlation_late": correlation[late],
    }  # fmt: skip
    passes = min(abs(correlation[0]), abs(correlation[late])) >= GATE
    return {name: round(float(value), 4) for name, value in measured.items()} | {"length_matters": bool(passes)}


def summarize(results: list[Result], num_seeds: int) -> dict[str, Any]:
    """Return every number of the report."""
    return summarize_results(results, num_seeds, SIMULATE)


def summarize_results(results: list[Result], num_seeds: int, contrasts: Sequence[Contrast]) -> dict[str, Any]:
    """Return optimizer → regime → what was measured, the arms, and the contrasts."""
    summary: dict[str, Any] = {"num_seeds": num_seeds, "margin": MARGIN, "optimizers": {}}
    for optimizer in ("sgd", "adam"):
        regimes = by_regime(results, optimizer)
        summary["optimizers"][optimizer] = {
            regime: {
                "measured": measure_regime(arms["dapo"]),
                "arms": {name: describe_arm(each) for name, each in arms.items()},
                "findings": {
                    budget: [finding.as_json() for finding in found]
                    for budget, found in find_all(arms, regime, contrasts).items()
                },
            }
            for regime, arms in regimes.items()
            if "dapo" in arms
        }
    return summary


def describe_arm(result: Result) -> dict[str, float | bool | str]:
    """Return one row of a regime's table."""
    accuracy, count = result.accuracy, len(result.accuracy)
    return {
        "label": result.label,
        "accuracy": round(float(accuracy.mean()), 5),
        "half": round(1.98 * float(accuracy.std(ddof=1)) / count**0.5, 5),
        "length": round(float(np.mean(result.rows["length"])), 2),
        "truncated": round(float(np.mean(result.rows["truncated"])), 4),
        "lambda": round(float(result.curve("lam")[:, -1].mean()), 3),
        "lambda_sd": round(float(result.curve("lam")[:, -1].std(ddof=1)), 3),
        "rate": result.record["rate"],
        "interior": bool(result.record["tuning"]["is_interior"]),
    }


def build_sections(folder: Path, num_seeds: int, pictures: Path) -> list[Section]:
    """Return this experiment's part of the report."""
    summary = summarize(read_results(folder / "cells", list_cells(num_seeds)), num_seeds)
    command = f"python -m benchmarks.lab simulate --seeds {num_seeds}"
    sections = [_describe_regimes(summary, command)]
    for optimizer, regimes in summary["optimizers"].items():
        if regimes:
            sections += compare_regimes(optimizer, regimes, num_seeds, command, pictures, SIMULATE)
    return sections


def compare_regimes(
    name: str, regimes: Mapping[str, Any], num_seeds: int, command: str, pictures: Path, contrasts: Sequence[Contrast]
) -> list[Section]:  # fmt: skip
    """Return the table of accuracies and that of the contrasts; `name` tells the optimizer and the experiment."""
    return [
        _tabulate(name, regimes, num_seeds, command, pictures),
        _test(name, regimes, command, contrasts),
    ]


def _describe_regimes(summary: Mapping[str, Any], command: str) -> Section:
    section = Section("Regimes, as measured")
    section.add_text(
        "Lengths under DAPO at its tuned rate. A regime counts as one where length matters if the correlation of "
        f"length and advantage within groups is at least {GATE} in size, both in the first updates and at two thirds "
        "of the run."
    )
    rows = [
        [
            name, f"{m['accuracy_start']:.2f} → {m['accuracy_end']:.2f}", f"{m['cv']:.2f}",
            f"{m['length_right']:.0f} / {m['length_wrong']:.0f}",
            f"{100 * m['truncated']:.0f} → {100 * m['truncated_end']:.0f} %",
            f"{m['correlation_start']:+.2f} → {m['correlation_late']:+.2f}", "yes" if m["length_matters"] else "no",
            MACHINES[name].summary,
        ]
        for name, m in ((name, each["measured"]) for name, each in summary["optimizers"]["sgd"].items())
    ]  # fmt: skip
    header = ["regime", "accuracy", "CV", "right / wrong length", "truncated", "corr(ℓ, A)", "matters", "what happens"]
    section.add_table(header, rows, "First updates → end of training (correlation: at two thirds)")
    section.add_command(command)
    return section


def _tabulate(
    name: str, regimes: Mapping[str, Any], num_seeds: int, command: str, pictures: Path
) -> Section:  # fmt: skip
    section = Section(f"Accuracy by regime and method, {name.upper()}")
    section.add_text(
        f"Mean of {num_seeds} paired seeds, each method at its own tuned learning rate; in brackets the mean length. ▲ "
        "and ▼ mark a significant difference from DAPO where that contrast was declared (Holm within the regime)."
    )
    names = list(dict.fromkeys(arm for each in regimes.values() for arm in each["arms"]))
    rows = [[find_arm(arm).label, *(_show_arm(regimes[regime], arm) for regime in regimes)] for arm in names]
    section.add_table(["method", *regimes], rows, f"Accuracy after equally many updates, {name.upper()}")
    differences = np.array(
        [
            [
                each["arms"][arm]["accuracy"] - each["arms"]["dapo"]["accuracy"] if arm in each["arms"] else np.nan
                for each in regimes.values()
            ]
            for arm in names
            if arm != "dapo"
        ]
    )
    figure, (axes,) = draw(8.5, 0.32 * len(names) + 1.6)
    heat(axes, differences, [find_arm(arm).label for arm in names if arm != "dapo"], list(regimes), 0.2)
    caption = f"Accuracy minus DAPO's, in points, {name.upper()}: blue is better, red is worse."
    section.add_figure(save(figure, pictures, f"accuracy_{name}"), caption)
    section.add_command(command)
    return section


def _show_arm(regime: Mapping[str, Any], arm: str) -> str:
    if arm not in regime["arms"]:
        return ""
    row = regime["arms"][arm]
    found = [each for each in regime["findings"]["updates"] if each["arm"] == arm and each["baseline"] == "dapo"]
    mark = {"better": "▲ ", "worse": "▼ "}.get(found[0]["verdict"], "") if found else ""
    return f"{mark}{row['accuracy']:.3f} ({row['length']:.0f})"


def _test(name: str, regimes: Mapping[str, Any], command: str, contrasts: Sequence[Contrast]) -> Section:
    section = Section(f"Declared contrasts, {name.upper()}")
    section.add_text(
        "Differences in points with 95 % intervals. ▲ better and ▼ worse hold after Holm's adjustment within the "
        "regime; = means equivalent within one point (TOST); the others are undecided."
    )
    for budget, meaning in (("updates", "equal updates"), ("tokens", "equal sampled tokens")):
        rows = []
        for contrast in contrasts:
            cells = [
                _show_finding(each["findings"][budget], contrast.arm, contrast.baseline) for each in regimes.values()
            ]
            if any(cells):
                rows.append([f"{find_arm(contrast.arm).label} − {find_arm(contrast.baseline).label}", *cells])
        section.add_table(["contrast", *regimes], rows, f"At {meaning}, {name.upper()}")
    section.add_command(command)
    return section


def _show_finding(findings: list[dict[str, Any]], arm: str, baseline: str) -> str:
    for each in findings:
        if each["arm"] == arm and each["baseline"] == baseline:
            mark = {"better": "▲ ", "worse": "▼ ", "equivalent": "= "}.get(each["verdict"], "")
            return f"{mark}{100 * each['difference']:+.1f} [{100 * each['low']:+.1f}, {100 * each['high']:+.1f}]"
    return ""
