"""The simulator computes the package's gradient, and its results depend on nothing but a run's seed and settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.lab.simulator.arms import ARMS, Arm
from benchmarks.lab.simulator.kernels import Responses, sample
from benchmarks.lab.simulator.machine import FEATURES, MACHINES, NUM_ACTIONS, find_policy, warm_up
from benchmarks.lab.simulator.preferences import Preferences
from benchmarks.lab.simulator.train import Schedule, Step, train
from lambda_grpo_pl.objective import (
    CorrelationConfig,
    LengthPreference,
    SurrogateConfig,
    TokenLogprobs,
    count_tokens,
    policy_loss,
)

SEEDS = np.arange(2)
SHORT = Schedule(num_updates=4, num_prompts=8, group_size=4, num_blocks=2, test_prompts=4)


def roll_out(regime: str = "stuck") -> tuple[np.ndarray, Responses, np.ndarray]:
    parameters = warm_up(MACHINES[regime], SEEDS)
    responses = sample(MACHINES[regime], find_policy(parameters), SEEDS, 0, 8, 4)
    return parameters, responses, responses.correct.reshape(2, 8, 4)


@pytest.mark.parametrize("level", ["on-policy", "token", "sequence"])
def test_the_gradient_is_autograds_of_the_packages_loss(level: str) -> None:
    old, responses, rewards = roll_out()
    config = SurrogateConfig(ratio_level="sequence" if level == "sequence" else "token")
    moved = old if level == "on-policy" else old + 0.3 * np.random.default_rng(0).standard_normal(old.shape)
    arm = replace(ARMS["grpo"], surrogate=config)
    preferences = Preferences(arm, 2, 96)
    advantages = preferences.compute_advantages(rewards)
    lengths = responses.lengths.reshape(2, 8, 4)
    weights = preferences.weigh(lengths, advantages)
    step = Step(find_policy(old), find_policy(moved), responses, advantages, slice(0, 8), config)
    gradient, surrogates = step.differentiate(weights)

    for run in range(2):
        theta = torch.from_numpy(moved[run]).requires_grad_()
        logprobs, before = (
            (torch.from_numpy(FEATURES) @ values).log_softmax(-1).flatten()
            for values in (theta, torch.from_numpy(old[run]))
        )
        mask = torch.arange(96) < torch.from_numpy(responses.lengths[run])[:, None]
        tokens = torch.from_numpy(responses.tokens[run].astype(np.int64)).masked_fill(~mask, 0)
        out = policy_loss(
            TokenLogprobs(logprobs[tokens], before[tokens]),
            mask,
            torch.from_numpy(advantages[run].flatten()),
            torch.from_numpy(weights[run].flatten()),
            config,
        )
        (expected,) = torch.autograd.grad(-out.loss, theta)
        np.testing.assert_allclose(gradient[run], expected.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(surrogates[run].flatten(), out.surrogates.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["dapo", "grpo", "dr_grpo", "delta_l_1", "balanced", "power_-1", "lambda", "balanced_correlation"]
)
def test_many_runs_at_once_weigh_as_each_alone(name: str) -> None:
    _, responses, rewards = roll_out()
    preferences = Preferences(ARMS[name], 2, 96)
    advantages = preferences.compute_advantages(rewards)
    lengths = responses.lengths.reshape(2, 8, 4)
    preferences.lam = torch.tensor([-0.7, 0.4], dtype=torch.float64)
    found = preferences.weigh(lengths, advantages)
    for run, lam in enumerate((-0.7, 0.4)):
        module = LengthPreference(replace(ARMS[name].preference, max_length=96))
        with torch.no_grad():
            module.lam.fill_(lam)
        of_run = torch.from_numpy(lengths[run])
        count = count_tokens(of_run, scope=ARMS[name].token_count)
        f = module(of_run, count.mean_length, None, None, torch.from_numpy(advantages[run])).detach()
        np.testing.assert_allclose(found[run], (f / count.denominator).numpy(), rtol=1e-6)


def test_the_correlation_rule_is_the_packages() -> None:
    _, responses, rewards = roll_out()
    arm = ARMS["correlation"]
    preferences = Preferences(arm, 2, 96)
    module = LengthPreference(replace(arm.preference, learn="correlation", correlation=CorrelationConfig()))
    lengths = responses.lengths.reshape(2, 8, 4)
    advantages = preferences.compute_advantages(rewards)
    for _ in range(3):
        preferences.observe(lengths, advantages, rewards)
        expected = module.correlation.update(torch.from_numpy(lengths[1]), torch.from_numpy(advantages[1]))
    assert preferences.lam[1].item() == pytest.approx(expected.item(), abs=1e-6)


def run(regime: str, arm: Arm, seeds: list[int], schedule: Schedule = SHORT) -> np.ndarray:
    rates = np.full(len(seeds), 320.0)
    curves = train(MACHINES[regime], arm, np.array(seeds), rates, schedule)
    return np.concatenate([curves.values["accuracy"], curves.values["kl"]])


def test_a_runs_result_does_not_depend_on_the_runs_beside_it() -> None:
    together = run("stuck", ARMS["lambda"], [3, 5, 7])
    np.testing.assert_array_equal(together[:, 1], run("stuck", ARMS["lambda"], [5])[:, 0])


@pytest.mark.parametrize(
    "name", ["grpo", "delta_l_1", "balanced", "power_-1.5", "lambda_lr10", "correlation", "balanced_correlation"]
)
def test_with_equal_lengths_all_methods_are_one(name: str) -> None:
    np.testing.assert_allclose(run("equal", ARMS[name], [0, 1]), run("equal", ARMS["dapo"], [0, 1]), rtol=1e-9)


def test_without_equal_lengths_they_are_not() -> None:
    assert abs(run("stuck", ARMS["grpo"], [0]) - run("stuck", ARMS["dapo"], [0])).max() > 1e-3


@pytest.mark.parametrize(("regime", "sign"), [("stuck", -1), ("failfast", 1), ("lost", -1), ("equal", 0)])
def test_regimes_have_the_gap_between_right_and_wrong_lengths_that_they_are_named_for(regime: str, sign: int) -> None:
    parameters = warm_up(MACHINES[regime], np.arange(4))
    responses = sample(MACHINES[regime], find_policy(parameters), np.arange(4), 0, 64, 8)
    right, wrong = responses.lengths[responses.correct].mean(), responses.lengths[~responses.correct].mean()
    assert np.sign(right - wrong) == sign
    assert 0.02 < responses.correct.mean() < 0.4


def test_tokens_say_what_happened() -> None:
    """A response is right exactly if it holds the right digit of each step and then an end."""
    _, responses, _ = roll_out("equal")
    for i in range(32):
        tokens = responses.tokens[0, i, : responses.lengths[0, i]].astype(int)
        digits, types = tokens[:-1] % NUM_ACTIONS, tokens[:-1] // NUM_ACTIONS
        assert responses.correct[0, i] == bool((digits == types % 4).all())
