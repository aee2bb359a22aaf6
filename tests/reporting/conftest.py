"""Folders of runs as a fit leaves them, small and with known contents."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lambda_grpo_pl.evaluation.records import EvaluationSetup, QuestionRecord, merge, write_part
from lambda_grpo_pl.evaluation.report import RunInfo, tabulate_records, write_tables

MakeRun = Callable[..., Path]
CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_steps": 30, "default_root_dir": "runs/x"},
    "model": {
        "policy": {"path": "some/tiny-model"},
        "preference": {"family": "power_softmax", "learn": "surrogate", "lr": 0.1},
        "optimizer": {"lr": 1e-4},
    },
    "rollout": {"sampling": {"num_samples": 2}},
    "reward": {"functions": [{"name": "numeric", "weight": 1.0}]},
}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_metrics(run: Path, num_updates: int = 30, **more: float) -> None:
    rows = [
        {
            "update": update,
            "reward/mean": update / 100,
            "reward/accuracy": update / 200,
            "preference/lambda": -update / 300,
            "preference/grpo_lambda": -4.0,
            "lens/own/prefix_bias": 0.25,
            "step": update - 1,
            **more,
        }
        for update in range(1, num_updates + 1)
    ]
    write_csv(run / "csv" / "metrics.csv", rows)


def write_config(run: Path, **preference: Any) -> None:
    config = CONFIG | {"model": CONFIG["model"] | {"preference": CONFIG["model"]["preference"] | preference}}
    (run / "csv").mkdir(parents=True, exist_ok=True)
    text = "# lightning.pytorch==2.6.6\n" + yaml.safe_dump(config)
    (run / "csv" / "config.yaml").write_text(text, encoding="utf-8")


def write_curves(run: Path, slope: float = 0.01) -> None:
    rows = [
        {"update": update, "relative_length": x, "f": 1 - slope * update * (x - 1)}
        for update in (1, 11, 21)
        for x in (0.5, 1.0, 1.5)
    ]
    write_csv(run / "preference_curve.csv", rows)


def write_evaluation(
    run: Path, step: int, completions: Sequence[Sequence[str]], method: str = "lambda", finished: bool = True
) -> None:
    """An evaluation in which the first response to every question is correct, and the others are not."""
    folder = run / "evaluation" / f"step-{step:06d}"
    num_samples = len(completions[0])
    setup = EvaluationSetup(
        benchmark="sums", template="plain", reward="numeric", temperature=1.0, num_samples=num_samples
    )
    records = [
        QuestionRecord(
            id=f"sums-{index}",
            index=index,
            answer="7",
            prompt=f"{index}+4=",
            completions=list(texts),
            extracted=["7", *[None] * (len(texts) - 1)],
            correct=[True, *[False] * (len(texts) - 1)],
            scores=[1.0, *[0.0] * (len(texts) - 1)],
            status=["ok", *["no_answer"] * (len(texts) - 1)],
            lengths=[len(text) for text in texts],
            truncated=[False] * len(texts),
        )
        for index, texts in enumerate(completions)
    ]
    write_part(folder / "sums", setup, 0, records)
    if finished:
        merge(folder / "sums")
        info = RunInfo(
            model="some/tiny-model", method="base" if step == 0 else method, seed=0 if step else None, step=step
        )
        write_tables(folder, info, tabulate_records(folder))


def leave_run(
    run: Path, completions: Sequence[Sequence[str]] | None = None, slope: float = 0.01, **preference: Any
) -> Path:
    """Leave a complete run of 30 updates with two evaluations."""
    write_metrics(run)
    write_config(run, **preference)
    write_curves(run, slope)
    write_csv(run / "guards.csv", [{"update": 12, "guard": "truncation", "message": "Many responses, too long"}])
    for step in (0, 30):
        write_evaluation(run, step, completions or [[f"{index}+4=7", "no idea"] for index in range(6)])
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that leaves a complete run under a name; its other arguments change parts."""
    return lambda name, *parts, **preference: leave_run(tmp_path / name, *parts, **preference)
