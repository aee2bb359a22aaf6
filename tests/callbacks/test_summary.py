"""What the end of a run says: before and after, what λ did, where the time went, and where the files are."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lambda_grpo_pl.callbacks import RunSummary
from lambda_grpo_pl.callbacks.figure import draw_run, make_figure
from lambda_grpo_pl.callbacks.summary import read_scores

METRICS = {
    "reward/mean": 0.5,
    "reward/accuracy": 0.25,
    "response/length": 9.0,
    "preference/lambda": 0.0,
    "preference/grpo_lambda": -0.625,
    "preference/f_min": 0.75,
    "preference/f_max": 1.5,
    "preference/weight_short": 0.2,
    "preference/weight_middle": 0.3,
    "preference/weight_long": 0.5,
    "time/sample": 2.0,
    "time/train": 3.0,
    "time/step": 6.0,
}


def trainer(folder: Path, update: int, **metrics: float) -> Any:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return SimpleNamespace(
        callback_metrics=METRICS | named,
        default_root_dir=str(folder),
        global_step=update,
        is_global_zero=True,
        loggers=[],
        checkpoint_callback=None,
    )


def write_scores(folder: Path, update: int, accuracy: float, low: float | None = None) -> None:
    home = folder / "evaluation" / f"step-{update:06d}"
    home.mkdir(parents=True)
    measures = {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": 0.875, "length/mean": 7.0}
    measures["num_questions"] = 8
    entry = {"settings": {"metric": "accuracy"}, "measures": measures}
    (home / "scores.json").write_text(json.dumps({"average": accuracy, "benchmarks": {"gsm8k": entry}}))


def step(
    summary: RunSummary, trainer: Any, lengths: tuple[int, int], weights: tuple[float, float], heldout: bool = False
) -> None:
    completions = SimpleNamespace(lengths=torch.tensor(lengths))
    batch = SimpleNamespace(sampled=lambda: completions, heldout=object() if heldout else None)
    outputs = {"rows": torch.tensor([[0, 1]]), "weights": torch.tensor([weights])}
    summary.on_train_batch_end(trainer, None, outputs, batch, 0)  # type: ignore[arg-type]


@pytest.fixture
def summary(tmp_path: Path) -> RunSummary:
    """Three rollouts with evaluations of updates 0 and 2."""
    summary = RunSummary()
    for update, accuracy in ((0, 0.25), (2, 0.5)):
        write_scores(tmp_path, update, accuracy, low=accuracy - 0.125)
        summary.on_validation_end(trainer(tmp_path, update), None)  # type: ignore[arg-type]
    for update in (1, 2, 3):
        values = {"preference__lambda": -update / 10, "preference__weight_short": 0.2 + update / 10}
        step(summary, trainer(tmp_path, update, **values), (1, 3), (1.0 + update, 0.5))
    return summary


def test_before_and_after_name_the_updates_they_were_measured_at(summary: RunSummary) -> None:
    rows = summary.rows()
    assert rows[0] == ("evaluated at update", "0", "2")
    assert rows[1] == ("gsm8k: accuracy (95 % interval)", "0.250  [0.125, 0.875]", "0.500  [0.375, 0.875]")
    assert rows[2] == ("gsm8k: mean length, tokens", "7.0", "7.0")


def test_the_table_says_what_lambda_did(summary: RunSummary) -> None:
    rows = {name: (before, after) for name, before, after in summary.rows()}
    assert rows["λ"] == ("-0.1000", "-0.3000  (from -0.3000 to -0.1000)")
    assert rows["λ equivalent to GRPO"] == ("-0.6250", "-0.6250")
    assert rows["f within a group (1: tokens weigh alike)"] == ("0.750 to 1.500", "0.750 to 1.500")
    shares = rows["gradient share, short / middle / long responses"]
    assert shares == ("30% / 30% / 50%", "50% / 30% / 50%")


def test_the_table_says_whether_long_responses_are_the_wrong_ones(tmp_path: Path) -> None:
    summary = RunSummary()
    for update, found in enumerate((math.nan, -0.5, -0.3, 0.1, 0.2), 1):  # a rollout without a signal has none
        values = {"preference__length_advantage_corr": found}
        step(summary, trainer(tmp_path, update, **values), (1, 3), (1.0, 1.0))
    (row,) = [row for row in summary.rows() if row[0].startswith("corr(")]
    assert row[1:] == ("-0.50", "+0.15  (docs/which-preference.md)")


def test_times_are_those_of_the_whole_run(summary: RunSummary) -> None:
    rows = {name: after for name, _, after in summary.rows()}
    assert (rows["seconds: sample"], rows["seconds: train"]) == ("6.0", "9.0")
    assert (rows["seconds: score"], rows["seconds: other"]) == ("0.0", "3.0")


def test_a_resumed_summary_is_the_uninterrupted_one(summary: RunSummary) -> None:
    resumed = RunSummary()
    resumed.load_state_dict(summary.state_dict())
    assert resumed.rows() == summary.rows()


def test_an_update_that_was_not_evaluated_is_named(
    summary: RunSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.on_fit_end(trainer(tmp_path, 3), None)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "those of update 2; the run ended at update 3" in shown
    assert "lambda-grpo validate" not in shown  # a run from Python has no configuration to do it with
    assert str(tmp_path / "run.png") in shown
    assert "preference_curve.csv" not in shown  # there is none
    summary.on_fit_end(trainer(tmp_path, 2), None)  # type: ignore[arg-type]
    assert "the run ended at" not in capsys.readouterr().out
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / name).touch()
    summary.on_fit_end(trainer(tmp_path, 3), None)  # type: ignore[arg-type]
    command = f"validate --config {tmp_path / 'config.yaml'} --ckpt_path {tmp_path / 'checkpoints/last.ckpt'}` does"
    assert command in capsys.readouterr().out


def test_a_hidden_summary_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunSummary(show=False).on_fit_end(trainer(tmp_path, 2), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run.png").exists()


def test_the_curve_drawn_is_that_of_the_last_update(
    summary: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("lambda_grpo_pl.callbacks.summary.draw_run", lambda *arguments: drawn.extend(arguments))
    summary.on_fit_end(trainer(tmp_path, 3), None)  # type: ignore[arg-type]
    assert drawn[1] == [(0.5, 4.0), (1.5, 0.5)]


@pytest.mark.parametrize(("update", "cells"), [(0, ("0", "")), (2, ("not evaluated", "2"))])
def test_a_single_evaluation_fills_its_own_column(tmp_path: Path, update: int, cells: tuple[str, str]) -> None:
    write_scores(tmp_path, update, 0.5)
    summary = RunSummary()
    summary.on_validation_end(trainer(tmp_path, update), None)  # type: ignore[arg-type]
    assert summary.rows()[0] == ("evaluated at update", *cells)
    assert "" in summary.rows()[1]
    assert "0.500" in summary.rows()[1]


def test_a_score_without_an_interval_shows_none(tmp_path: Path) -> None:
    write_scores(tmp_path, 0, 0.5, low=None)
    scores = read_scores(tmp_path / "evaluation/step-000000/scores.json")
    assert scores == {"gsm8k: accuracy": {"score": 0.5, "high": 0.875, "length": 7.0, "questions": 8}}


def test_the_axes_count_rollouts_and_every_panel_has_its_lines(summary: RunSummary) -> None:
    figure = make_figure(summary.series, [(0.5, 2.0), (1.5, 0.5)])
    panels = {axis.get_title(): axis for axis in figure.axes}
    *series, curve = figure.axes
    assert {axis.get_xlabel() for axis in series} == {"rollout"}
    assert curve.get_xlabel() == "length / mean length of its group"
    assert [list(line.get_ydata()) for line in panels["λ"].lines] == [[-0.1, -0.2, -0.3], [-0.625] * 3]
    shares = panels["share of the gradient by length"].lines
    assert [line.get_ydata()[-1] for line in shares[:3]] == [0.5, 0.3, 0.5]
    assert list(panels["reward"].lines[1].get_ydata()) == pytest.approx([0.5, 0.5, 0.5])
    assert list(curve.lines[1].get_ydata()) == [2.0, 0.5]


def test_gains_are_taken_where_held_out_prompts_were_and_judged_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning keeps what was logged last, so a rollout without held-out prompts still shows the old gains."""
    summary = RunSummary()
    for update in range(10):
        logged = {"lens__own__gain": 1.0, "lens__grpo__gain": 2.0 + 0.01 * update}
        step(summary, trainer(tmp_path, update, **logged), (1, 3), (1.0, 0.5), heldout=update % 2 == 0)
    assert summary.gains == {"own": [1.0] * 5, "grpo": pytest.approx([2.0, 2.02, 2.04, 2.06, 2.08])}
    resumed = RunSummary()
    resumed.load_state_dict(summary.state_dict())
    assert resumed.gains == summary.gains
    summary.on_fit_end(trainer(tmp_path, 10), None)  # type: ignore[arg-type]
    assert "On held-out prompts grpo would have gained more: 2.04 per unit of weight" in capsys.readouterr().out
    panel = make_figure(summary.series, [], summary.gains).axes[-1]
    assert panel.get_title() == "gain on held-out prompts"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["own", "grpo"]
    assert list(panel.lines[0].get_xdata()) == pytest.approx([1.0, 2.04])


def test_a_method_without_lambda_has_no_panel_for_it() -> None:
    panels = {axis.get_title() for axis in make_figure({"preference/lambda": [0.0, 0.0]}, []).figure.axes}
    assert "reward" in panels
    assert "λ" not in panels


def test_rollouts_have_whole_numbers(summary: RunSummary) -> None:
    *series, _ = make_figure(summary.series, []).axes
    for axis in series:
        axis.set_xlim(1, 3)
        assert all(float(tick).is_integer() for tick in axis.get_xticks()), axis.get_title()


def test_a_rollout_without_gradient_has_no_shares(tmp_path: Path) -> None:
    summary = RunSummary()
    shares = dict.fromkeys(("preference__weight_short", "preference__weight_middle", "preference__weight_long"), 0.0)
    step(summary, trainer(tmp_path, 1, **shares), (1, 3), (1.0, 1.0))
    (row,) = [row for row in summary.rows() if row[0].startswith("gradient share")]
    assert row[1] == row[2] == "none: equal rewards"


def test_the_picture_is_written_even_for_a_run_without_updates(tmp_path: Path) -> None:
    draw_run({}, [], tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
