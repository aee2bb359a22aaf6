"""The `placebo` rule: λ of every update is the one that another run's metrics have."""

from __future__ import annotations

import csv
from bisect import bisect_left
from pathlib import Path

from lambda_grpo_pl.errors import UserError

UPDATE, LAMBDA = "update", "preference/lambda"
"""Columns of metrics.csv."""


class LambdaPath:
    """λ by update, read from a run's metrics.csv. Raises `UserError` for a file without λ."""

    def __init__(self, path: str) -> None:
        self.path = path
        rows = _read(Path(path))
        values = {int(float(row[UPDATE])): float(row[LAMBDA]) for row in rows if row.get(LAMBDA) and row.get(UPDATE)}
        if not values:
            raise UserError(
                f"model.preference.placebo is {path}, which has no rows with {UPDATE} and {LAMBDA}: set it to the "
                "metrics.csv of a run whose family has a λ."
            )
        self.updates = sorted(values)
        self.lambdas = [values[update] for update in self.updates]

    def check(self, num_updates: int) -> None:
        """Refuse a run of more updates than the file holds; −1 is a run without end. Raises `UserError`."""
        if num_updates > self.updates[-1]:
            raise UserError(
                f"model.preference.placebo is {self.path}, which ends at update {self.updates[-1]}, but "
                f"trainer.max_steps is {num_updates}: lower it, or take the path of a longer run."
            )

    def at(self, update: int) -> float:
        """λ that weighed an update, counted from 1; a row stands for the updates since the row before, the last for
        all after it.
        """
        return self.lambdas[min(bisect_left(self.updates, update), len(self.lambdas) - 1)]


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"model.preference.placebo is {path}, but that file does not exist: fix the path.")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
