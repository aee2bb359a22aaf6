"""The gate of a regime: what a short DAPO run must show before methods are compared in it.

A comparison says nothing where the policy cannot learn, where there is nothing left to learn, or where most groups have
no signal. And where length and advantage are not correlated throughout, weighting by length has nothing to act on: such
a regime is a null, whose contrasts should be zero.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START = (0.05, 0.20)
"""Accuracy of the training responses at the start."""
END = (0.40, 0.70)
"""The same at the end of the pilot."""
MIN_SIGNAL = 0.6
"""Smallest share of groups with both right and wrong responses, over the pilot."""
MIN_CORRELATION = 0.3
"""Smallest |corr(length, advantage)| at the start and at the end."""
WINDOW = 5
"""Updates that `at the start` and `at the end` average."""


@dataclass(frozen=True)
class Measured:
    """A regime as a pilot found it; lengths in tokens, shares from 0 to 1."""

    num_updates: int
    start_accuracy: float
    end_accuracy: float
    signal: float
    """Share of groups with a signal, over all updates."""
    start_correlation: float
    """Correlation of length and advantage within groups."""
    end_correlation: float
    cv: float
    """Standard deviation over mean of the lengths at the start."""
    right_length: float
    """Mean length of right responses at the start."""
    wrong_length: float
    truncated: float
    """Share of truncated responses at the start."""
    end_truncated: float

    @property
    def correlates(self) -> bool:
        """Whether length and advantage go together from the start to the end, in one direction."""
        start, end = self.start_correlation, self.end_correlation
        return start * end > 0 and min(abs(start), abs(end)) >= MIN_CORRELATION

    def list_faults(self) -> list[str]:
        """Say what makes comparisons in this regime worthless; empty if it passes."""
        faults = []
        if not START[0] <= self.start_accuracy <= START[1]:
            faults.append(f"the start accuracy is {self.start_accuracy:.2f}, not {START[0]:.2f} to {START[1]:.2f}")
        if not END[0] <= self.end_accuracy <= END[1]:
            faults.append(f"the end accuracy is {self.end_accuracy:.2f}, not {END[0]:.2f} to {END[1]:.2f}")
        if not self.signal >= MIN_SIGNAL:
            faults.append(f"{self.signal:.0%} of the groups have a signal, less than {MIN_SIGNAL:.0%}")
        return faults

    def judge(self, is_null: bool) -> list[str]:
        """Say what keeps the regime from being what it is declared to be: a null, or one where length matters."""
        faults = self.list_faults()
        found = (
            f"corr(length, advantage) is {self.start_correlation:+.2f} at first, {self.end_correlation:+.2f} at last"
        )
        if not is_null and not self.correlates:
            faults.append(f"{found}: declare the regime a null")
        if is_null and max(abs(self.start_correlation), abs(self.end_correlation)) >= MIN_CORRELATION:
            faults.append(f"{found}: the regime is no null")
        return faults


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the training rows of a run's `csv/metrics.csv`, in order of updates; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return sorted((row for row in rows if "reward/accuracy" in row), key=lambda row: row["update"])


def measure(rows: Sequence[Mapping[str, float]]) -> Measured:
    """Summarise the training rows of a pilot.

    Raises `ValueError` if there are fewer than two windows of updates.
    """
    if len(rows) < 2 * WINDOW:
        raise ValueError(f"The pilot has {len(rows)} updates: the gate needs {2 * WINDOW} or more.")
    start, end = rows[:WINDOW], rows[-WINDOW:]
    return Measured(
        num_updates=len(rows),
        start_accuracy=_mean(start, "reward/accuracy"),
        end_accuracy=_mean(end, "reward/accuracy"),
        signal=1 - _mean(rows, "reward/zero_variance_groups"),
        start_correlation=_mean(start, "preference/length_advantage_corr"),
        end_correlation=_mean(end, "preference/length_advantage_corr"),
        cv=_mean(start, "response/length_std") / _mean(start, "response/length"),
        right_length=_mean(start, "preference/length_correct"),
        wrong_length=_mean(start, "preference/length_incorrect"),
        truncated=_mean(start, "response/truncated"),
        end_truncated=_mean(end, "response/truncated"),
    )


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)
