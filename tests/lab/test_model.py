"""The language model's runs: trained once, read question by question, continued after an interruption."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab import markdown
from benchmarks.lab.contrasts import MODEL, MODEL_ARMS, MODEL_OTHER_ARMS, MODEL_OTHERS
from benchmarks.lab.experiments import model, model_report, model_results
from benchmarks.lab.experiments.model import DONE, Run
from benchmarks.lab.experiments.model_methods import find_overlay, list_options
from benchmarks.lab.experiments.model_results import Trained, average_over_tokens
from benchmarks.lab.export import export_results
from benchmarks.lab.gate import Measured
from benchmarks.lab.regimes import REGIMES
from lambda_grpo_pl.errors import UserError


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
    monkeypatch.setattr(model, "read_over_the_run", lambda run, runs: -abs(math.log2(run.factor) - 6))
    assert model.tune("ledger", "dapo", tmp_path, 1) == 64


def test_a_rate_beside_one_that_fails_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {2: 0.5, 4: 0.6, 8: 0.7, 16: 0.8, 32: 0.0, 64: 0.0}
    monkeypatch.setattr(model, "run_missing", lambda wanted, runs, jobs: None)
    monkeypatch.setattr(model, "read_over_the_run", lambda run, runs: scores[run.factor])
    assert model.tune("ledger", "dapo", tmp_path, 1) == 8


def test_the_common_rate_is_the_one_that_most_methods_chose() -> None:
    for factors, common in (([16, 32, 32, 32, 64, 64], 32), ([16, 32, 16, 32, 64, 8], 16)):
        tuned = dict(zip(MODEL_ARMS, factors, strict=True)) | {"luspo": 128, "gspo": 128, "linear": 128}
        assert model.find_common_factor(tuned) == common


def test_other_methods_wait_for_those_that_they_are_compared_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run it first, --regimes switch"):
        model.run_others(tmp_path, 10, 1, ["switch"])


def test_power_is_said_from_the_tuning_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "read_over_the_run", lambda run, runs: 0.01 * run.seed * (run.method == "grpo"))
    sentences = model.describe_powers("ledger", MODEL, dict.fromkeys(MODEL_ARMS, 8.0), tmp_path, 10)
    assert sentences[0].startswith("ledger, grpo − dapo: the paired difference varies by 1.0 points")
    assert sentences[1] == "ledger, lambda − dapo: the tuning seeds do not differ."


def test_scores_at_equal_tokens_stop_where_the_budget_ends() -> None:
    """Short responses leave room for more updates; the update that the budget cuts counts in part."""
    curves, lengths = np.array([[0.0, 0.5, 1.0], [0.2, 0.4, 0.6]]), np.array([[10.0, 10.0, 10.0], [40.0, 20.0, 5.0]])
    trained = Trained(1.0, np.zeros((2, 4)), curves, lengths, [])
    assert average_over_tokens(trained, 25.0) == pytest.approx([(0.0 * 10 + 0.5 * 10 + 1.0 * 5) / 25, 0.2])
    assert average_over_tokens(trained, 65.0)[1] == pytest.approx((0.2 * 40 + 0.4 * 20 + 0.6 * 5) / 65)


def test_every_method_has_an_overlay_and_every_contrast_its_methods() -> None:
    methods = (*MODEL_ARMS, *MODEL_OTHER_ARMS)
    found = {find_overlay(method) for method in methods}
    assert found <= {path.stem for path in (Path(__file__).parents[2] / "configs/preference").glob("*.yaml")}
    assert {name for arm, baseline, _ in (*MODEL, *MODEL_OTHERS) for name in (arm, baseline)} <= set(methods)
    assert list_options("power_-0.5", "builtin:ledger", Path()) == ["--model.preference.init", "-0.5"]


def test_a_placebo_has_the_path_of_the_seed_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "switch").mkdir()
    (tmp_path / "switch" / "factors.json").write_text('{"correlation": 32.0}', encoding="utf-8")
    for seed, donor in ((0, 1), (1, 0), (9, 8), (1001, 1002), (1003, 1002)):
        run = Run(regime="switch", method="placebo", seed=seed, factor=8.0)
        _, path = list_options("placebo", "builtin:two-ledgers", model.find_donor(run, tmp_path))
        assert path == str(tmp_path / f"switch/correlation/x32/seed{donor}/csv/metrics.csv")


def test_other_methods_are_summed_up_apart_and_resampled_tokens_are_not_compared() -> None:
    draw = np.random.default_rng(0)
    measured = [Measured(**dict.fromkeys((field.name for field in fields(Measured)), 0.0))]
    trained = {
        name: Trained(8.0, draw.random((3, 4)), draw.random((3, 5)), np.full((3, 5), tokens), measured, resamples)
        for name, tokens, resamples in (
            ("dapo", 9.0, False), ("balanced_correlation", 9.0, False), ("luspo", 4.0, False), ("dapo_full", 4.0, True),
        )
    }  # fmt: skip
    found = model_results.summarize_regime("ledger", trained, {"dapo": trained["dapo"]})
    others = found["others"]
    assert list(found["methods"]) == ["dapo", "balanced_correlation"]
    assert list(others["methods"]) == ["luspo", "dapo_full", "balanced_correlation"]
    assert [each["baseline"] for each in others["findings"]["end"]] == ["luspo", "dapo_full"]
    assert others["at_one_rate"]["findings"]["end"] == []
    assert [each["baseline"] for each in others["findings"]["equal_tokens"]] == ["luspo"]
    whole, cut = (each["methods"]["balanced_correlation"] for each in (found, others))
    assert whole["equal_tokens"] == whole["over_the_run"] == cut["over_the_run"] != cut["equal_tokens"]
    table = markdown.show_other_scores({"regimes": {"ledger": found, "switch": {"methods": {}}}})
    assert table.startswith("| method | ledger |")
    assert " / – (× 8)" in table


@pytest.mark.slow
def test_a_short_run_trains_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGIMES, "ledger", replace(REGIMES["ledger"], num_updates=10))
    model.run_missing(model.list_runs(["ledger"], {"dapo": 1.0, "grpo": 1.0}, range(2)), tmp_path, 2)
    (section,) = model_report.build_sections(tmp_path, 2, tmp_path / "pictures", "python -m benchmarks.lab quick")
    page = "".join(section.blocks)
    assert "grpo − dapo" in page
    assert "Training score in ledger" in page
    (tmp_path / "model").symlink_to(tmp_path)
    export_results(tmp_path, {"simulate": 100, "confirm": 100, "lens": 32, "model": 2}, tmp_path / "exported")
    exported = json.loads((tmp_path / "exported" / "model.json").read_text(encoding="utf-8"))
    assert [len(row["over_the_run"]) for row in exported["regimes"]["ledger"]["methods"].values()] == [2, 2]
