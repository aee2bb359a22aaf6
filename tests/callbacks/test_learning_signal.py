"""A run that learns nothing says so, once, with what to do."""

import warnings
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.callbacks.learning_signal import PATIENCE, SignalWatch, measure_signal
from lambda_grpo_pl.rewards import SuiteScores
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
    (message,) = messages(FAILED, FAILED, FAILED, FAILED)
    assert "All verdicts of a rollout failed" in message
    assert "reward.pool.timeout_s" in message


def test_each_kind_is_warned_about() -> None:
    kinds = messages(*[FAILED] * PATIENCE, *[CONSTANT] * PATIENCE, *[FLAT] * PATIENCE)
    assert len(kinds) == 3


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
