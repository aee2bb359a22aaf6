"""The lens's gain in the simulator is the slope of the held-out objective along each method's step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.lab.contrasts import LENS_ARMS
from benchmarks.lab.simulator import lens
from benchmarks.lab.simulator.arms import ARMS
from benchmarks.lab.simulator.kernels import sample, sum_along
from benchmarks.lab.simulator.lens import LensWatcher, find_lens_method, look
from benchmarks.lab.simulator.machine import MACHINES, NUM_TYPES, PAD, find_policy, warm_up
from benchmarks.lab.simulator.preferences import Preferences
from benchmarks.lab.simulator.train import HELDOUT_STREAM, SIZE, Schedule, Step, heldout_gradient, train
from lambda_grpo_pl.objective import SurrogateConfig
from lambda_grpo_pl.objective.lens import lens_weights

SEEDS = np.arange(2)
SHORT = Schedule(num_updates=6, num_prompts=8, group_size=4, num_blocks=3, test_prompts=4)


def take_step(regime: str, prompts: int = 16) -> tuple[np.ndarray, Step, np.ndarray, np.ndarray]:
    """Return parameters, an on-policy step, lengths and advantages of a rollout of two runs."""
    parameters = warm_up(MACHINES[regime], SEEDS)
    policy = find_policy(parameters)
    responses = sample(MACHINES[regime], policy, SEEDS, 0, prompts, 8)
    shape = (2, prompts, 8)
    advantages = Preferences(ARMS["dapo"], 2, 96).compute_advantages(responses.correct.reshape(shape))
    step = Step(policy, policy, responses, advantages, slice(0, prompts), SurrogateConfig())
    return parameters, step, responses.lengths.reshape(shape), advantages


def weigh(arm: str, lengths: np.ndarray, advantages: np.ndarray) -> np.ndarray:
    runs = zip(torch.from_numpy(lengths), torch.from_numpy(advantages), strict=True)
    return torch.stack([lens_weights(find_lens_method(arm), *run) for run in runs]).numpy()


def find_gain(arm: str, lengths: np.ndarray, advantages: np.ndarray, products: np.ndarray) -> np.ndarray:
    weights = torch.from_numpy(weigh(arm, lengths, advantages))[:, None]
    gain, _ = look(weights, *(torch.from_numpy(each) for each in (lengths, advantages, products)))
    return gain[:, 0]


def find_direction(arm: str, step: Step, lengths: np.ndarray, advantages: np.ndarray) -> np.ndarray:
    """Return the method's step, divided by its total weight."""
    weights = weigh(arm, lengths, advantages)
    total = (weights * abs(advantages) * lengths).sum((1, 2))
    return step.differentiate(weights)[0] / total[:, None, None]


@pytest.mark.parametrize("arm", LENS_ARMS)
@pytest.mark.parametrize("regime", ["stuck", "failfast", "mixture"])
def test_the_gain_is_a_finite_difference_of_the_heldout_objective(regime: str, arm: str) -> None:
    """The objective is that of the held-out responses, reweighted by how probable the moved policy finds them."""
    parameters, step, lengths, advantages = take_step(regime)
    direction = find_direction(arm, step, lengths, advantages)
    heldout = sample(MACHINES[regime], step.policy, SEEDS, HELDOUT_STREAM + 7, 64, 8)
    rewards = heldout.correct.reshape(2, 64, 8)
    above = (rewards - rewards.mean(-1, keepdims=True)).reshape(2, -1) * 8 / 7

    def objective(epsilon: float) -> np.ndarray:
        logs = (np.log(find_policy(parameters + epsilon * direction)) - np.log(step.policy)).reshape(2, SIZE)
        return (above * np.exp(sum_along(logs, heldout.tokens, heldout.lengths))).mean(1)

    slope = (objective(1e-4) - objective(-1e-4)) / 2e-4
    gradient = heldout_gradient(MACHINES[regime], step, SEEDS, 7, 64, 8)
    np.testing.assert_allclose(find_gain(arm, lengths, advantages, step.products(gradient)), slope, rtol=1e-5)


@pytest.mark.parametrize("arm", ["dapo", "grpo", "power_+0.5"])
def test_the_gain_is_the_slope_of_the_true_accuracy(arm: str) -> None:
    """In failfast every step must end in its right digit: p / (1 − P(padding)), averaged over types, 24 times.

    The limit leaves room for the end.
    """
    machine = MACHINES["failfast"]
    parameters, step, lengths, advantages = take_step("failfast", 64)
    direction = find_direction(arm, step, lengths, advantages)

    def accuracy(epsilon: float) -> np.ndarray:
        policy = find_policy(parameters + epsilon * direction)
        types = np.arange(NUM_TYPES)
        right = policy[:, types, types % 4] / (1 - policy[:, types, PAD])
        return right.mean(-1) ** machine.num_steps[0]

    slope = (accuracy(1e-3) - accuracy(-1e-3)) / 2e-3
    gradients = [heldout_gradient(machine, step, SEEDS, part, 2048, 8) for part in range(64)]
    gains = np.stack([find_gain(arm, lengths, advantages, step.products(each)) for each in gradients])
    error = gains.std(0, ddof=1) / 8
    assert (error < 0.03 * abs(slope)).all()
    assert (abs(gains.mean(0) - slope) < 4 * error).all()


@pytest.mark.parametrize("arm", LENS_ARMS)
def test_the_lens_weighs_as_the_method_trains_up_to_one_factor(arm: str) -> None:
    _, _, lengths, advantages = take_step("stuck")
    trained = Preferences(ARMS[arm], 2, 96).weigh(lengths, advantages)
    seen = weigh(arm, lengths, advantages)
    counts = advantages != 0  # a response with A = 0 has no gradient, whatever its weight
    for run in range(2):
        ratio = (trained[run] / seen[run])[counts[run]]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_watching_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "HELDOUT_PARTS", 2)
    watcher = LensWatcher(MACHINES["stuck"], SEEDS, SHORT, LENS_ARMS)
    rates = np.full(2, 320.0)
    watched = train(MACHINES["stuck"], ARMS["dapo"], SEEDS, rates, SHORT, watcher=watcher)
    alone = train(MACHINES["stuck"], ARMS["dapo"], SEEDS, rates, SHORT)
    for name, values in alone.values.items():
        np.testing.assert_array_equal(watched.values[name], values)
    looks = watcher.looks()
    assert looks.updates == [0, 1, 3, 5]
    assert {each.shape for each in looks[1:5]} == {(2, 4, len(LENS_ARMS))}
    np.testing.assert_allclose(looks.correlation[:, 1:].T, watched.values["correlation"], rtol=1e-9)


def test_the_noise_of_a_step_is_what_its_halves_disagree_in() -> None:
    _, step, lengths, advantages = take_step("stuck")
    weights = weigh("grpo", lengths, advantages)
    first, second = weights.copy(), weights.copy()
    first[:, 8:], second[:, :8] = 0, 0
    halves = [step.differentiate(each)[0] for each in (first, second)]
    step_norm, noise_norm = lens._measure_step(step, weights)
    np.testing.assert_allclose(step_norm, np.sqrt(((halves[0] + halves[1]) ** 2).sum((1, 2))))
    np.testing.assert_allclose(noise_norm, np.sqrt(((halves[0] - halves[1]) ** 2).sum((1, 2))))
