"""The committed results: every reported seed's numbers in one small Parquet file, and the summaries as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lab import markdown
from benchmarks.lab.experiments import (
    confirm,
    controls,
    lens,
    lens_summary,
    model_results,
    simulate,
    stability,
    trajectories,
)
from benchmarks.lab.results import Result, read_results
from benchmarks.lab.store import RESULTS, describe_origin, read_cell, write_json


def export_results(runs: Path, num_seeds: Mapping[str, int], folder: Path = RESULTS) -> list[Path]:
    """Write what `docs/evidence.md` rests on, for every experiment that is in `runs`; curves stay there.

    `num_seeds` says how many seeds `simulate`, `confirm`, `lens` and `model` report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = read_results(runs / "simulate" / "cells", simulate.list_cells(num_seeds["simulate"]))
    if results:
        _export_simulate(results, num_seeds["simulate"], folder)
    confirmed = read_results(runs / "confirm" / "cells", confirm.list_cells(num_seeds["confirm"]))
    if confirmed:
        _write_seeds(confirmed, folder / "confirm.parquet")
        summary = confirm.summarize(confirmed, num_seeds["confirm"])
        write_json(folder / "confirm.json", summary | _origin(confirmed))
        _refresh_evidence(folder, summary, "confirm")
    looks = read_results(runs / "lens" / "cells", lens.list_cells(num_seeds["lens"]))
    if looks:
        summary = lens_summary.summarize(looks, lens.read_full_runs())
        write_json(folder / "lens.json", summary | _origin(looks) | describe_origin())
        _refresh_evidence(folder, summary, "lens")
    if (runs / "controls" / "summary.json").exists():
        write_json(folder / "controls.json", controls.read(runs / "controls"))
    found = model_results.summarize(runs / "model", num_seeds["model"])
    if found["regimes"]:
        write_json(folder / "model.json", found | describe_origin())
        _refresh_evidence(folder, found, "model")
    for name in ("sensitivity", "robustness", "pareto"):
        cells = sorted((runs / name / "cells").glob("*.json"))
        if cells:
            write_json(folder / f"{name}.json", {"cells": [_describe(path) for path in cells], **describe_origin()})
    return sorted(folder.iterdir())


def _export_simulate(results: list[Result], num_seeds: int, folder: Path) -> None:
    _write_seeds(results, folder / "simulate.parquet")
    summary = simulate.summarize(results, num_seeds)
    write_json(folder / "simulate.json", summary | _origin(results))
    _refresh_evidence(folder, summary, "simulate")
    write_json(folder / "trajectories.json", trajectories.summarize(results))
    write_json(folder / "stability.json", stability.summarize(results))


def _write_seeds(results: list[Result], path: Path) -> None:
    columns: dict[str, list[Any]] = {}
    for result in results:
        for name, values in _list_seeds(result).items():
            columns.setdefault(name, []).extend(values)
    pq.write_table(pa.table(columns), path, compression="zstd")


def _origin(results: list[Result]) -> dict[str, Any]:
    record = results[0].record
    return {"cells": record["versions"] | {"revision": record["revision"]}}


def _refresh_evidence(folder: Path, summary: dict[str, Any], experiment: str) -> None:
    """Write the page's tables of an experiment anew; a folder of a test has no page."""
    if folder == RESULTS and markdown.EVIDENCE.exists():
        page = markdown.refresh(markdown.EVIDENCE.read_text(encoding="utf-8"), summary, experiment)
        markdown.EVIDENCE.write_text(page, encoding="utf-8")


def _list_seeds(result: Result) -> dict[str, list[Any]]:
    """Return one row per seed."""
    count = len(result.accuracy)
    return {
        "optimizer": [result.cell.schedule.optimizer] * count,
        "regime": [result.cell.regime] * count,
        "arm": [result.cell.arm] * count,
        "seed": result.rows["seed"],
        "accuracy": result.accuracy.astype(np.float32).tolist(),
        "length": np.array(result.rows["length"], dtype=np.float32).tolist(),
        "tokens": result.curve("tokens")[:, -1].astype(np.float32).tolist(),
        "lambda": result.curve("lam")[:, -1].astype(np.float32).tolist(),
    }


def _describe(path: Path) -> dict[str, Any]:
    """Return a cell's means from its record and rows."""
    rows, record = read_cell(path.parent, path.stem)
    last = [curve[-1] for curve in rows["lam_curve"]]
    return {
        "regime": record["regime"], "arm": record["arm"], "variant": record["variant"], "label": record["label"],
        "rate": record["rate"], "num_seeds": record["num_seeds"], "accuracy": record["accuracy"],
        "length": round(float(np.mean(rows["length"])), 2), "lambda": round(float(np.mean(last)), 3),
    }  # fmt: skip
