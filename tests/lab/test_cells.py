"""Cells: written once, the same when run again, tuned inside their grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab.simulator import tuning
from benchmarks.lab.simulator.arms import ARMS, find_arm
from benchmarks.lab.simulator.cells import Cell, run_cell
from benchmarks.lab.simulator.machine import MACHINES, find_machine
from benchmarks.lab.simulator.train import Schedule
from benchmarks.lab.store import is_done, read_cell
from lambda_grpo_pl.errors import UserError

SHORT = Schedule(num_updates=4, num_prompts=8, group_size=4, num_blocks=2, test_prompts=8)


def test_a_cell_run_again_gives_the_same_numbers(tmp_path: Path) -> None:
    cell = Cell(regime="stuck", arm="lambda", num_seeds=3, schedule=SHORT, rate=320.0)
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert not is_done(folder, cell.name)
        run_cell(cell, folder)
        assert is_done(folder, cell.name)
    (first, record), (second, _) = read_cell(tmp_path / "first", cell.name), read_cell(tmp_path / "second", cell.name)
    assert first == second
    assert record["versions"]["torch"]
    assert {"revision", "command", "rate"} <= set(record)


def test_a_placebo_takes_the_path_of_another_seed(tmp_path: Path) -> None:
    cells = [
        Cell(regime="stuck", arm=arm, num_seeds=2, schedule=SHORT, rate=320.0) for arm in ("correlation", "placebo")
    ]
    for cell in cells:
        run_cell(cell, tmp_path)
    own, other = (read_cell(tmp_path, cell.name)[0]["lam_curve"] for cell in cells)
    assert own != other
    assert all(-1 <= lam < 0 for curve in other for lam in curve)


def test_names_of_variants_are_names_of_files() -> None:
    name = Cell(regime="stuck", arm="dapo", variant="reward / (1 + 0.1 ℓ/mean)", num_seeds=2).name
    assert "/" not in name
    assert " " not in name


def test_the_grid_grows_until_its_best_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy peaks at a rate of 5,000, far outside the first grid, with a spread that rules out the rates above."""

    class Fake:
        def __init__(self, rates: np.ndarray) -> None:
            self.test = {"accuracy": 1 - 0.1 * abs(np.log(rates / 5000)) + 1e-3 * (np.arange(len(rates)) % 2)}

    monkeypatch.setattr(tuning, "train", lambda machine, arm, seeds, rates, schedule: Fake(np.asarray(rates)))
    found = tuning.tune(MACHINES["stuck"], ARMS["dapo"], SHORT)
    assert found.rate == pytest.approx(5120)
    assert found.is_interior
    assert len(found.accuracies) == tuning.FINE_SEEDS
    fine = {round(each.rate) for each in found.tried if each.num_seeds == tuning.FINE_SEEDS}
    assert fine >= {2560, 3620, 5120, 7241, 10240}


def test_a_rate_that_fails_on_some_seeds_is_not_chosen() -> None:
    steady, risky = np.full(8, 0.7), np.array([0.8] * 7 + [0.2])
    assert tuning._best(tuning._score({1.0: steady, 2.0: risky})) == 1.0
    assert tuning._best(tuning._score({1.0: steady, 2.0: steady + 0.1})) == 2.0


def test_a_rate_beside_one_that_fails_is_not_chosen() -> None:
    """0.71 beside a collapse loses to 0.69 on the plateau: other seeds may collapse there too."""
    found = {rate: np.full(4, accuracy) for rate, accuracy in enumerate([0.6, 0.68, 0.69, 0.69, 0.71, 0.0], 1)}
    smooth = tuning._smooth(found)
    assert set(smooth) == {2, 3, 4, 5}
    assert smooth[3] == pytest.approx((0.68 + 0.69 + 0.69) / 3)
    assert tuning._best(tuning._score(found)) == 5
    assert tuning._best(smooth) == 4


def test_other_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="stuck"):
        find_machine("stick")
    with pytest.raises(UserError, match="correlation"):
        find_arm("correlated")


def test_padding_reaches_what_f_sees(tmp_path: Path) -> None:
    cells = [
        Cell(regime=name, arm="correlation", num_seeds=2, schedule=SHORT, rate=0.001) for name in ("stuck", "padded")
    ]
    for cell in cells:
        run_cell(cell, tmp_path)
    clean, padded = (np.array(read_cell(tmp_path, cell.name)[0]["lam_curve"])[:, 0] for cell in cells)
    assert (padded > clean).all()


def test_a_length_price_shortens(tmp_path: Path) -> None:
    arms = {"free": ARMS["dapo"], "priced": replace(ARMS["dapo"], length_price=1.0)}
    schedule = replace(SHORT, num_updates=20)
    found = {}
    for name, arm in arms.items():
        cell = Cell(
            regime="lost", arm="dapo", variant=name, changed_arm=arm, num_seeds=2, schedule=schedule, rate=320.0
        )
        run_cell(cell, tmp_path)
        found[name] = np.mean(read_cell(tmp_path, cell.name)[0]["length"])
    assert found["priced"] < 0.8 * found["free"]


def test_fresh_seeds_are_those_of_a_run_that_holds_both(tmp_path: Path) -> None:
    shared = {"regime": "stuck", "arm": "grpo", "schedule": SHORT, "rate": 300.0}
    whole, fresh = Cell(num_seeds=4, **shared), Cell(num_seeds=2, first_seed=2, **shared)
    for cell in (whole, fresh):
        run_cell(cell, tmp_path)
    rows, fresh_rows = (read_cell(tmp_path, cell.name)[0] for cell in (whole, fresh))
    assert fresh.name != Cell(num_seeds=2, **shared).name
    assert fresh_rows["seed"] == [2, 3]
    assert fresh_rows["accuracy"] == rows["accuracy"][2:]
    assert fresh_rows["accuracy"] != rows["accuracy"][:2]
