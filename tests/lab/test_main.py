"""The command line: power is printed, the page is written, and what is missing is asked for."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.lab import __main__ as lab
from benchmarks.lab import results
from benchmarks.lab.__main__ import main
from benchmarks.lab.experiments import confirm, controls, model, model_results, simulate
from benchmarks.lab.export import export_results
from benchmarks.lab.simulator import tuning
from benchmarks.lab.simulator.cells import Cell, run_cell
from benchmarks.lab.simulator.train import Schedule

SHORT = Schedule(num_updates=4, num_prompts=8, group_size=4, num_blocks=2, test_prompts=8)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """All cells of `simulate`, which are four short ones, with their files."""
    monkeypatch.setattr(tuning, "COARSE_SEEDS", 2)
    monkeypatch.setattr(tuning, "FINE_SEEDS", 3)
    cells = [
        Cell(regime="stuck", arm=arm, num_seeds=2, schedule=SHORT) for arm in ("dapo", "grpo", "correlation", "lambda")
    ]
    monkeypatch.setattr(simulate, "list_cells", lambda num_seeds: cells)
    for cell in cells:
        run_cell(cell, tmp_path / "simulate" / "cells")
    return cells


def test_finished_cells_become_a_summary_and_a_page(
    tmp_path: Path, finished: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_an_export_reads_every_cell_once(tmp_path: Path, finished: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    found, read = [], results.read_cell
    monkeypatch.setattr(results, "read_cell", lambda folder, name: found.append(name) or read(folder, name))
    export_results(tmp_path, lab.NUM_SEEDS, tmp_path / "exported")
    assert found == [cell.name for cell in finished]
    assert (tmp_path / "exported" / "trajectories.json").exists()


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["simulate", "--seeds", "7"], {"simulate": {7}}),
        (["confirm", "--seeds", "7"], {"confirm": {7}}),
        (["model", "--seeds", "7"], {"model": {7}}),
        (["model", "--simulated-seeds", "7"], {"simulate": {7}}),
        (["report"], {}),
    ],
)
def test_seeds_are_those_of_the_named_experiment_alone(
    arguments: list[str], changed: dict[str, set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, set[int]] = {"simulate": set(), "confirm": set(), "model": set()}
    monkeypatch.setattr(simulate, "list_cells", lambda num_seeds: asked["simulate"].add(num_seeds) or [])
    monkeypatch.setattr(confirm, "list_cells", lambda num_seeds: asked["confirm"].add(num_seeds) or [])
    monkeypatch.setattr(model, "run_model", lambda runs, num_seeds, jobs, regimes: asked["model"].add(num_seeds))
    monkeypatch.setattr(model_results, "read_regimes", lambda runs, num_seeds: asked["model"].add(num_seeds) or {})
    monkeypatch.setattr(lab, "export_results", partial(export_results, folder=tmp_path / "exported"))
    for name in asked:
        (tmp_path / name).mkdir()
    assert main([*arguments, "--export", "--runs", str(tmp_path)]) == 0
    assert asked == {"simulate": {100}, "confirm": {100}, "model": {10}} | changed


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
