"""The files of a run's folder as plain data: metrics, curves of f, warnings of guards, the configuration.

A run may be unfinished or damaged, so what cannot be read is left out, and the reader says so in a note.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from lambda_grpo_pl.callbacks.metric_names import AXIS

T = TypeVar("T")

NOT_METRICS = {AXIS, "step", "epoch"}


class Series(NamedTuple):
    """One metric over a run."""

    updates: list[int]
    """Policy updates, ascending."""
    values: list[float]
    """The metric after each of them."""


class Curve(NamedTuple):
    """f against length in one update."""

    update: int
    points: list[tuple[float, float]]
    """(length over its group's mean, f)."""


class GuardWarning(NamedTuple):
    """One warning of a guard."""

    update: int
    guard: str
    message: str


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header; none if there is no file. Broken characters are replaced."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    rows = csv.DictReader(text.splitlines(keepends=True))
    return [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in rows]


def read_metrics(path: Path) -> dict[str, Series]:
    """Return metric → series from a logger's metrics.csv.

    A row without an update belongs to the update of the row before it. Of two values for one update the later counts;
    values that are not finite are left out.
    """
    found: dict[str, dict[int, float]] = {}
    update = 0
    for row in read_csv(path):
        update = _as_count(row.get(AXIS, ""), update)
        for name, text in row.items():
            value = _as_float(text)
            if name not in NOT_METRICS and math.isfinite(value):
                found.setdefault(name, {})[update] = value
    return {name: Series(*map(list, zip(*sorted(points.items()), strict=True))) for name, points in found.items()}


def read_curves(path: Path) -> list[Curve]:
    """Return the curves of f in preference_curve.csv, by update."""
    curves: dict[int, list[tuple[float, float]]] = {}
    for row in read_csv(path):
        point = _as_float(row.get("relative_length", "")), _as_float(row.get("f", ""))
        update = _as_count(row.get(AXIS, ""), -1)
        if update >= 0 and all(map(math.isfinite, point)):
            curves.setdefault(update, []).append(point)
    return [Curve(update, sorted(points)) for update, points in sorted(curves.items())]


def read_guards(path: Path) -> list[GuardWarning]:
    """Return the warnings in guards.csv."""
    rows = read_csv(path)
    return [GuardWarning(_as_count(row.get(AXIS, ""), 0), row.get("guard", ""), row.get("message", "")) for row in rows]


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Return dotted key → value of a run's config.yaml, and the version of Lightning in its first line.

    Raises `ValueError` for a file that is not a configuration.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has no keys")
    first = text.partition("\n")[0]
    version = first.partition("==")[2].strip() if first.startswith("# lightning") else ""
    return dict(_flatten(config)), version


def read_requirements(folder: Path) -> dict[str, str]:
    """Return package → version from the requirements that Weights & Biases noted beside the run."""
    file = max(folder.glob("wandb/*run-*/files/requirements.txt"), key=lambda path: path.stat().st_mtime, default=None)
    if file is None:
        return {}
    pairs = (line.strip().split("==") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {pair[0].lower().replace("_", "-"): pair[1] for pair in pairs if len(pair) == 2}


def read_or_note(read: Callable[[Path], T], path: Path, notes: list[str]) -> T | None:
    """Return what `read` returns; for a file that is damaged or missing None, and append a note that names it."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        place = "/".join(path.parts[-2:])
        notes.append(f"{place} could not be read ({type(error).__name__}), so it is left out.")
        return None


def _flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            simple = value is None or isinstance(value, bool | int | float | str)
            yield f"{prefix}{key}", value if simple else json.dumps(value, ensure_ascii=False, default=str)


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _as_count(text: str, default: int) -> int:
    value = _as_float(text)
    return int(value) if math.isfinite(value) else default
