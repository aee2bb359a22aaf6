"""Recorded and repeated updates side by side."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Metrics = Mapping[str, float]
RECORDED, REPLAYED = "recorded", "replayed"
SHOWN = (
    "policy/loss",
    "policy/gradient_norm",
    "preference/lambda",
    "preference/slope",
    "preference/f_min",
    "preference/f_max",
    "preference/ess",
    "preference/weight_short",
    "preference/weight_middle",
    "preference/weight_long",
    "policy/entropy",
    "policy/reference_kl",
    "policy/clip_low",
    "policy/clip_high",
)
"""What the terminal shows of each update, where it is known; the CSV file has everything."""


class ComparedStep(NamedTuple):
    """One rollout's updates."""

    update: int
    """Number of the last of them in the run."""
    columns: Mapping[str, Metrics]
    """`recorded`, `replayed` and, if another method was asked for, its name → metrics."""

    def differences(self) -> list[str]:
        """Names of the metrics that the replay does not give to the last digit."""
        recorded, replayed = self.columns[RECORDED], self.columns[REPLAYED]
        return [name for name, value in recorded.items() if not _equal(value, replayed.get(name))]


def _equal(a: float, b: float | None) -> bool:
    return b is not None and (a == b or (math.isnan(a) and math.isnan(b)))


def format_steps(steps: Sequence[ComparedStep]) -> str:
    """Return a table for each update, and a sentence about how many numbers are equal."""
    blocks = [_format_step(step) for step in steps]
    total = sum(len(step.columns[RECORDED]) for step in steps)
    differing = [name for step in steps for name in step.differences()]
    if not differing:
        blocks.append(f"All {total} recorded numbers were given again, to the last digit.")
    else:
        names = ", ".join(list(dict.fromkeys(differing))[:4])
        blocks.append(f"{len(differing)} of {total} recorded numbers differ ({names}).")
    return "\n\n".join(blocks)


def _format_step(step: ComparedStep) -> str:
    shown = [name for name in SHOWN if any(name in metrics for metrics in step.columns.values())]
    rows = [(f"update {step.update}", *step.columns)]
    rows += [(name, *(_format(metrics.get(name)) for metrics in step.columns.values())) for name in shown]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def write_steps(steps: Sequence[ComparedStep], path: Path) -> None:
    """Write a row for each update and metric, with all digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(steps[0].columns)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["update", "metric", *columns])
        for step in steps:
            for name in sorted({name for metrics in step.columns.values() for name in metrics}):
                writer.writerow([step.update, name, *(repr(step.columns[column].get(name)) for column in columns)])
