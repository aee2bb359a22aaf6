"""The lens against full runs: cells once, then a page, a JSON file and a table, from committed full runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab import markdown
from benchmarks.lab.__main__ import main
from benchmarks.lab.contrasts import LENS_ARMS, LENS_FIRST_SEED, LENS_REGIMES
from benchmarks.lab.experiments import lens as experiment
from benchmarks.lab.experiments import lens_summary
from benchmarks.lab.export import export_results
from benchmarks.lab.results import read_results
from benchmarks.lab.simulator import lens
from benchmarks.lab.simulator.cells import Cell
from benchmarks.lab.simulator.train import Schedule
from benchmarks.lab.store import RESULTS, read_cell

SHORT = Schedule(num_updates=8, num_prompts=8, group_size=4, num_blocks=4, test_prompts=8)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Return two regimes of two seeds, with few held-out responses."""
    monkeypatch.setattr(lens, "HELDOUT_PARTS", 2)
    cells = [
        Cell(
            regime=regime, arm="dapo", variant="lens", rate=320.0, num_seeds=2, first_seed=LENS_FIRST_SEED,
            schedule=SHORT,
        )
        for regime in ("stuck", "failfast")
    ]  # fmt: skip
    monkeypatch.setattr(experiment, "list_cells", lambda num_seeds: cells)
    monkeypatch.setattr("benchmarks.lab.experiments.lens_report.list_cells", lambda num_seeds: cells)
    return cells


def test_from_runs_to_a_page_and_a_table(tmp_path: Path, cells: list[Cell]) -> None:
    folder = tmp_path / "lens" / "cells"
    for cell in cells:
        experiment.look_along(cell, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["lens", "--seeds", "2", "--runs", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before  # nothing has run again
    page = (tmp_path / "lens" / "report.html").read_text(encoding="utf-8")
    assert "The lens against full runs" in page
    assert "python -m benchmarks.lab lens --seeds 2" in page
    assert (tmp_path / "lens" / "pictures" / "lens.png").stat().st_size > 1000

    export_results(tmp_path, {"simulate": 2, "confirm": 2, "model": 2, "lens": 2}, tmp_path / "exported")
    summary = json.loads((tmp_path / "exported" / "lens.json").read_text(encoding="utf-8"))
    assert {"cells", "versions", "revision", "command"} <= set(summary)
    assert set(summary["regimes"]) == {"stuck", "failfast"}
    table = markdown.refresh("<!-- table: lens -->\n<!-- end -->", summary, "lens")
    assert {line.split(" | ")[0] for line in table.splitlines()[3:-1]} == {"| stuck", "| failfast", "| all"}


def test_cells_run_in_processes_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        experiment.run(tmp_path, 2, jobs=1)
    assert len(re.findall("4 looks|5 looks", capsys.readouterr().out)) == 2
    rows, record = read_cell(tmp_path / "cells", cells[0].name)
    assert rows["seed"] == [LENS_FIRST_SEED, LENS_FIRST_SEED + 1]
    assert np.array(rows["gain"]).shape == (2, len(record["updates"]), len(LENS_ARMS))
    assert record["updates"] == [0, 1, 3, 5, 7]


def test_a_lens_that_sees_the_full_runs_order_has_no_regret(tmp_path: Path, cells: list[Cell]) -> None:
    """Gains are replaced by the accuracies themselves, and then by their opposite."""
    for cell in cells:
        experiment.look_along(cell, tmp_path)
    full_runs = experiment.read_full_runs()
    for sign, regret in ((1, 0.0), (-1, None)):
        results = read_results(tmp_path, cells)
        for each in results:
            means = sign * full_runs[each.cell.regime].mean(0)
            each.rows["gain"] = np.broadcast_to(means, np.shape(each.rows["gain"])).tolist()
        summary = lens_summary.summarize(results, full_runs)
        found = summary["all"]["scores"]["gain"]["first third"]
        assert found["spearman"][0] == pytest.approx(sign)
        assert found["right_share"][0] == (sign + 1) / 2
        if regret is not None:
            assert found["regret"][0] == found["single run"][0] == regret
            named = summary["regimes"]["stuck"]
            assert set(named["sentence"]["all"]["names"]) <= {named["best"]}
        else:
            assert found["regret"][0] > summary["all"]["rules"]["random"][0] > 0


def test_the_regimes_and_methods_have_committed_full_runs() -> None:
    full_runs, rates = experiment.read_full_runs(), experiment.read_rates()
    assert set(full_runs) == set(LENS_REGIMES) <= set(rates)
    summary = json.loads((RESULTS / "simulate.json").read_text(encoding="utf-8"))["optimizers"]["sgd"]
    for regime, accuracies in full_runs.items():
        for arm, mean in zip(LENS_ARMS, accuracies.mean(0), strict=True):
            assert summary[regime]["arms"][arm]["accuracy"] == pytest.approx(mean, abs=1e-4)
    assert [cell.first_seed for cell in experiment.list_cells(3)] == [LENS_FIRST_SEED] * len(LENS_REGIMES)


def test_the_rule_of_signs_is_grpo_where_the_correlation_is_negative() -> None:
    accuracy = lens_summary.Resampled(np.eye(10)[1] * 0.2 + 0.5, np.tile(np.eye(10)[1] * 0.2 + 0.5, (3, 1)))
    for correlation, regret in ((-0.4, 0.0), (0.4, 0.2)):
        rules = lens_summary._follow_rules(
            lens_summary.Resampled(np.array(correlation), np.full(3, correlation)), accuracy
        )
        assert rules["correlation"].value == pytest.approx(regret)
        assert rules["dapo"].value == pytest.approx(0.2)
        assert rules["grpo"].value == pytest.approx(0)
