"""What the lens says along the token mean's run of each regime, to be held against the full runs of `simulate`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.lab.contrasts import LENS_ARMS, LENS_FIRST_SEED, LENS_REGIMES
from benchmarks.lab.results import Floats
from benchmarks.lab.simulator import lens
from benchmarks.lab.simulator.cells import CHUNK, Cell, run_cells
from benchmarks.lab.simulator.lens import LensWatcher, Looks
from benchmarks.lab.simulator.machine import find_machine
from benchmarks.lab.simulator.train import train
from benchmarks.lab.store import RESULTS, write_cell

TRAINED = "dapo"
"""The method whose runs are looked at."""


def list_cells(num_seeds: int) -> list[Cell]:
    """Return a cell per regime, at the rate with which the committed full runs were made."""
    rates = read_rates()
    return [
        Cell(
            regime=regime, arm=TRAINED, variant="lens", rate=rates[regime], num_seeds=num_seeds,
            first_seed=LENS_FIRST_SEED,
        )
        for regime in LENS_REGIMES
    ]  # fmt: skip


def run(folder: Path, num_seeds: int, jobs: int) -> None:
    """Run what is missing."""
    run_cells(list_cells(num_seeds), folder / "cells", jobs, look_along)


def read_rates() -> dict[str, float]:
    """Return regime → the token mean's tuned learning rate."""
    summary = json.loads((RESULTS / "simulate.json").read_text(encoding="utf-8"))
    return {name: float(each["arms"][TRAINED]["rate"]) for name, each in summary["optimizers"]["sgd"].items()}


def read_full_runs() -> dict[str, Floats]:
    """Return regime → final accuracies [seeds, methods] of the committed full runs, methods as in `LENS_ARMS`."""
    table = pq.read_table(RESULTS / "simulate.parquet", columns=["optimizer", "regime", "arm", "seed", "accuracy"])
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in table.to_pylist():
        if row["optimizer"] == "sgd":
            found.setdefault((row["regime"], row["arm"]), {})[row["seed"]] = row["accuracy"]
    return {
        regime: np.array([[found[regime, arm][seed] for arm in LENS_ARMS] for seed in sorted(found[regime, TRAINED])])
        for regime in LENS_REGIMES
    }


def look_along(cell: Cell, folder: Path) -> str:
    """Train a cell's runs, look at them, write its file, and return a sentence about it."""
    machine, started = find_machine(cell.regime), time.process_time()
    assert cell.rate is not None
    found, accuracies = [], []
    last = cell.first_seed + cell.num_seeds
    for start in range(cell.first_seed, last, CHUNK):
        seeds = np.arange(start, min(start + CHUNK, last))
        watcher = LensWatcher(machine, seeds, cell.schedule, LENS_ARMS)
        rates = np.full(len(seeds), cell.rate)
        accuracies.append(train(machine, cell.find_arm(), seeds, rates, cell.schedule, watcher=watcher).test)
        found.append(watcher.looks())
    record = {
        "regime": cell.regime, "arm": cell.arm, "label": cell.find_arm().label, "rate": cell.rate,
        "schedule": asdict(cell.schedule), "num_seeds": cell.num_seeds, "arms": list(LENS_ARMS),
        "updates": found[0].updates,
        "heldout_responses": lens.HELDOUT_PARTS * lens.HELDOUT_PROMPTS * lens.HELDOUT_GROUP,
        "seconds": round(time.process_time() - started, 2),
    }  # fmt: skip
    rows = _collect_rows(found, cell.first_seed)
    rows["accuracy"] = np.concatenate([each["accuracy"] for each in accuracies]).tolist()
    write_cell(folder, cell.name, rows, record)
    return f"{cell.name}: {len(found[0].updates)} looks, {record['seconds']:.0f} s"


def _collect_rows(parts: Sequence[Looks], first_seed: int) -> dict[str, list[Any]]:
    """Return one entry per seed: what is known of a method [looks, methods], and the correlation [looks]."""
    rows: dict[str, list[Any]] = {
        name: np.concatenate([getattr(part, name) for part in parts]).tolist()
        for name in ("gain", "step", "noise", "estimated_step", "correlation")
    }
    return {"seed": [first_seed + n for n in range(len(rows["gain"]))]} | rows
