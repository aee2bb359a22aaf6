"""The language model's runs: trained once, read question by question, continued after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lab.experiments import model
from benchmarks.lab.experiments.model import DONE, Run
from benchmarks.lab.regimes import REGIMES


def test_an_interrupted_experiment_has_whole_pairs_of_seeds() -> None:
    runs = model.list_runs(["ledger"], {"dapo": 1.0, "grpo": 0.5}, range(2))
    assert [(run.seed, run.method) for run in runs] == [(0, "dapo"), (0, "grpo"), (1, "dapo"), (1, "grpo")]


def test_finished_runs_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Run] = []
    monkeypatch.setattr(model, "train", lambda run, runs: trained.append(run) or "done")
    done, missing = model.list_runs(["ledger"], {"dapo": 1.0, "grpo": 0.5}, [0])
    done.find_folder(tmp_path).mkdir(parents=True)
    (done.find_folder(tmp_path) / DONE).write_text("{}", encoding="utf-8")
    model.run_missing([done, missing], tmp_path, 1)
    assert trained == [missing]


def test_the_grid_of_rates_grows_until_its_best_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "run_missing", lambda wanted, runs, jobs: None)
    monkeypatch.setattr(model, "read_accuracy", lambda run, runs: -abs(run.factor - 8))
    assert model.tune("ledger", "dapo", tmp_path, 1) == 8


@pytest.mark.slow
def test_a_short_run_trains_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGIMES, "ledger", replace(REGIMES["ledger"], num_updates=10))
    model.run_missing(model.list_runs(["ledger"], {"dapo": 1.0, "grpo": 1.0}, range(2)), tmp_path, 2)
    (section,) = model.build_sections(tmp_path, 2, tmp_path / "pictures", "python -m benchmarks.lab quick")
    page = "".join(section.blocks)
    assert "grpo − dapo" in page
    assert "Training accuracy in ledger" in page
