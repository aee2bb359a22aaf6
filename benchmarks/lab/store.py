"""Results on disk: one Parquet file of numbers per cell and one JSON file that says how they were made."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parents[1] / "results" / "lab"
"""The committed results."""
PACKAGES = ("torch", "numpy", "numba", "pyarrow", "lightning", "transformers")


def is_done(folder: Path, name: str) -> bool:
    """Return whether a cell is complete: its JSON file is written last."""
    return (folder / f"{name}.json").exists()


def write_cell(folder: Path, name: str, rows: dict[str, Sequence[Any]], record: dict[str, Any]) -> None:
    """Write a cell's rows (one entry per seed; a curve is an entry that is a list) and its record."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(rows)), folder / f"{name}.parquet", compression="zstd")
    write_json(folder / f"{name}.json", record | describe_origin())


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file in one move, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_cell(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a cell's rows, column by column, and its record."""
    rows = pq.read_table(folder / f"{name}.parquet").to_pydict()
    return rows, json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def describe_origin() -> dict[str, Any]:
    """Return versions, revision and command: what it takes to make a result again."""
    return {
        "versions": {"python": platform.python_version()} | {name: _find_version(name) for name in PACKAGES},
        "revision": _find_revision(),
        "command": " ".join(["python -m benchmarks.lab", *sys.argv[1:]]),
        "machine": platform.machine(),
    }


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _find_revision() -> str | None:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
