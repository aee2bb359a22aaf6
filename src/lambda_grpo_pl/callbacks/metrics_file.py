"""Tables on disk that a resumed run continues: rows by update, each once."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lambda_grpo_pl.callbacks.metric_names import AXIS


class MetricsFile:
    """A table of metrics as CSV. Rows without an `update` belong to the last update that was named."""

    def __init__(self, path: Path, resumed: bool) -> None:
        self.path = path
        self._columns: list[str] = []
        self.update = 0
        self._is_continued = resumed and path.is_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_continued:
            path.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row."""
        self.update = int(metrics.get(AXIS, self.update))
        if self._is_continued:
            self._drop_what_comes_again(metrics)
        row = {**metrics, AXIS: self.update}  # Lightning's step counts from 0, and would be a second x axis
        if set(row) <= set(self._columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write([*read_rows(self.path), row])

    def _drop_what_comes_again(self, metrics: Mapping[str, Any]) -> None:
        """Remove the rows of updates that are made again, or the row of an evaluation that is."""
        if AXIS in metrics:
            self._is_continued = False
            self._write(rows_before(self.path, self.update))
        else:
            repeated = set(metrics) - {"epoch"}  # which every row has
            rows = rows_before(self.path, self.update + 1)
            self._write([row for row in rows if float(row[AXIS]) < self.update or not any(map(row.get, repeated))])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        names = {name for row in rows for name in row} - {AXIS}
        self._columns = [AXIS, *sorted(names)]
        write_rows(self.path, self._columns, rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file with a header, as text; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_before(path: Path, update: int) -> list[dict[str, Any]]:
    """Return the rows whose `update` is below `update`: what remains when training continues there."""
    return [row for row in read_rows(path) if float(row[AXIS]) < update]


def write_rows(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Replace a CSV file in one step, so that an interruption leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
