"""A run that learns nothing says so, once, with what to do."""

import csv
import warnings
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.callbacks.learning_signal import PATIENCE, SignalWatch, measure_signal
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import SuiteScores
from lambda_grpo_pl.training import module
from tests.integration.runs import run
from tests.scored import scored_batch

SIGNAL = [0.0, 0.0, 0.0, -1.0]
FLAT = [0.0, 1.0, 0.0, -1.0]
CONSTANT = [0.0, 1.0, 0.5, -0.5]
FAILED = [1.0, 1.0, 0.0, 0.0]


def messages(*signals: list[float]) -> list[str]:
    """First words of the warnings about rollouts with these signals."""
    watch = SignalWatch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for signal in signals:
            watch.observe(torch.tensor(signal))
    return [str(warning.message) for warning in caught]


def test_a_run_with_signals_is_silent() -> None:
    assert messages(SIGNAL, FLAT, FLAT, SIGNAL, FLAT, FLAT, SIGNAL, CONSTANT, CONSTANT, SIGNAL, CONSTANT) == []


def test_flat_groups_are_warned_about_once_after_some_rollouts() -> None:
    assert messages(*[FLAT] * (PATIENCE - 1)) == []
    (message,) = messages(*[FLAT] * (2 * PATIENCE))
    assert "every group's responses earned equal rewards" in message
    assert "Change data.train" in message


def test_constant_rewards_have_their_own_warning() -> None:
    assert messages(*[CONSTANT] * (PATIENCE - 1)) == []
    (message,) = messages(*[CONSTANT] * (2 * PATIENCE))
    assert f"All rewards of the last {PATIENCE} rollouts are 0.5" in message
    assert "reward.functions" in message


def test_rewards_that_are_constant_within_each_rollout_but_differ_between_them_are_flat() -> None:
    for others in (FLAT, [0.0, 1.0, 0.75, -0.75]):
        (message,) = messages(others, CONSTANT, others)
        assert message.startswith("In each of the last")
    assert len(messages(FLAT, *[CONSTANT] * PATIENCE)) == 2


def test_failed_verdicts_are_warned_about_at_once_and_once() -> None:
    (message,) = messages(*[FAILED, SIGNAL] * PATIENCE)
    assert "All verdicts of a rollout failed" in message
    assert "reward.pool.timeout_s" in message


def test_a_run_whose_verdicts_keep_failing_ends() -> None:
    """Else it would train on zeros to its end and exit with status 0."""
    messages(*[FAILED] * (PATIENCE - 1))
    with pytest.raises(UserError, match=rf"All verdicts of the last {PATIENCE} rollouts failed.*fix the function"):
        messages(*[FAILED] * PATIENCE)


def test_each_kind_is_warned_about() -> None:
    kinds = messages(FAILED, *[CONSTANT] * PATIENCE, *[FLAT] * PATIENCE)
    assert len(kinds) == 3


@pytest.mark.parametrize(
    ("signal", "norms", "num_warnings"),
    [
        (SIGNAL, [0.0] * 2 * PATIENCE, 1),
        (SIGNAL, [0.0] * (PATIENCE - 1) + [1.0] + [0.0] * (PATIENCE - 1), 0),
        (FLAT, [0.0] * (PATIENCE - 1), 0),
    ],
    ids=["for long", "now and then", "of flat groups, which have their own warning"],
)
def test_a_gradient_of_zero_is_warned_about_once(signal: list[float], norms: list[float], num_warnings: int) -> None:
    watch = SignalWatch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for norm in norms:
            watch.observe(torch.tensor(signal))
            watch.observe_gradient(norm)
    assert len(caught) == num_warnings
    assert all("gradient was 0" in str(each.message) for each in caught)


@pytest.mark.parametrize(("num_failed", "flag"), [(15, 0.0), (16, 1.0)])
def test_the_signal_of_a_batch(num_failed: int, flag: float) -> None:
    batch = scored_batch(0)
    scores = SuiteScores([], {}, [], [], num_failed, 0, {})
    assert measure_signal(batch, scores).tolist() == [flag, 0.0, 0.0, -1.0]
    rewards = batch.scored()
    batch.rewards = rewards._replace(total=torch.full_like(rewards.total, 0.25))
    assert measure_signal(batch, scores).tolist() == [flag, 1.0, 0.25, -0.25]


def never(completion: str, example: object) -> float:
    return 0.0


def test_a_run_without_signal_is_told_by_the_reward_callback(policy: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="All rewards of the last 3 rollouts are 0") as caught:
        run(
            "fit",
            policy,
            tmp_path,
            "--trainer.callbacks=null",
            "--trainer.max_steps=5",
            "--trainer.val_check_interval=1000",
            f"--reward.functions=[{{name: {__name__}.never}}]",
        )
    assert sum("nothing is learned" in str(each.message) for each in caught) == 1


def test_an_isolated_reward_that_always_fails_ends_the_run(policy: Path, tmp_path: Path) -> None:
    options = ["--trainer.callbacks=null", f"--trainer.max_steps={2 * PATIENCE}", "--trainer.val_check_interval=1000"]
    reward = "--reward.functions=[{name: tests.failing_reward.always_raises, isolated: true}]"
    with (
        pytest.warns(UserWarning, match="All verdicts of a rollout"),
        pytest.raises(UserError, match="last 3 rollouts"),
    ):
        run("fit", policy, tmp_path, *options, reward)


def test_a_run_goes_on_through_a_storm_of_hangs_and_counts_them(policy: Path, tmp_path: Path) -> None:
    """16 answers, of which four hang at a time, for 0.3 s each: 1.2 s a step, and two steps are no reason to end."""
    options = ["--trainer.callbacks=null", "--trainer.max_steps=2", "--trainer.val_check_interval=1000"]
    reward = "--reward.functions=[{name: tests.failing_reward.always_hangs, isolated: true}]"
    logger = f"[{{class_path: lambda_grpo_pl.callbacks.RunCSVLogger, init_args: {{save_dir: {tmp_path}}}}}]"
    pool = ["--reward.pool.timeout_s=0.3", "--reward.pool.num_workers=4", f"--trainer.logger={logger}"]
    with pytest.warns(UserWarning, match="All verdicts of a rollout"):
        run("fit", policy, tmp_path, *options, reward, *pool)
    with (tmp_path / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["reward/mean"]]
    assert [float(row["reward/verifier_failed"]) for row in rows] == [1.0, 1.0]
    assert float(rows[1]["time/score"]) < 4 * (0.3 + 0.5)  # the first also starts the workers


def test_an_evaluation_whose_verdicts_all_failed_says_so(policy: Path, tmp_path: Path) -> None:
    options = ["--data.val=[{split: test, limit: 2}]", "--trainer.callbacks=null"]
    reward = "--reward.functions=[{name: tests.failing_reward.always_raises, isolated: true}]"
    with pytest.warns(UserWarning, match="All verdicts on arithmetic failed, so its scores say nothing"):
        run("validate", policy, tmp_path, *options, reward)


def test_a_run_without_gradient_is_told(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "clip_gradient", lambda parameters, norm: torch.tensor(0.0))
    with pytest.warns(UserWarning, match="gradient was 0"):
        run(
            "fit",
            policy,
            tmp_path,
            "--trainer.callbacks=null",
            f"--trainer.max_steps={PATIENCE}",
            "--trainer.val_check_interval=1000",
            "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        )
