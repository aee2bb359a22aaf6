"""The command line: power is printed, the page is written, and what is missing is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.lab.__main__ import main
from benchmarks.lab.experiments import controls, simulate
from benchmarks.lab.simulator import tuning
from benchmarks.lab.simulator.cells import Cell, run_cell
from benchmarks.lab.simulator.train import Schedule

SHORT = Schedule(num_updates=4, num_prompts=8, group_size=4, num_blocks=2, test_prompts=8)


def test_finished_cells_become_a_summary_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "COARSE_SEEDS", 2)
    monkeypatch.setattr(tuning, "FINE_SEEDS", 3)
    cells = [
        Cell(regime="stuck", arm=arm, num_seeds=2, schedule=SHORT) for arm in ("dapo", "grpo", "correlation", "lambda")
    ]
    monkeypatch.setattr(simulate, "list_cells", lambda num_seeds: cells)
    for cell in cells:
        run_cell(cell, tmp_path / "simulate" / "cells")
    assert main(["simulate", "--seeds", "2", "--runs", str(tmp_path)]) == 0
    assert "stuck, grpo − dapo: the paired difference varies by" in capsys.readouterr().out
    summary = json.loads((tmp_path / "simulate" / "summary.json").read_text(encoding="utf-8"))
    stuck = summary["optimizers"]["sgd"]["stuck"]
    assert {(each["arm"], each["baseline"]) for each in stuck["findings"]["tokens"]} == {
        ("grpo", "dapo"),
        ("lambda", "dapo"),
        ("lambda", "grpo"),
        ("correlation", "dapo"),
        ("correlation", "grpo"),
        ("correlation", "lambda"),
    }
    assert main(["report", "--simulated-seeds", "2", "--runs", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Declared contrasts, SGD" in page
    assert "Stability" in page


def test_an_experiment_that_needs_another_one_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sensitivity", "--runs", str(tmp_path)])
    assert "python -m benchmarks.lab simulate --seeds 100 first" in capsys.readouterr().err


def test_the_controls_report_how_often_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "SCHEDULE", SHORT)
    monkeypatch.setattr(controls, "NUM_RUNS", 40)
    summary = controls.run(tmp_path, num_experiments=8)
    assert summary["printed_power"] == pytest.approx(0.8, abs=1e-3)
    assert summary["found_with_effect"][0] > summary["found_without_effect"][0]
    assert "found different in" in controls.build_section(controls.read(tmp_path)).blocks[0]
