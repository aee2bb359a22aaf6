"""Training many tabular policies at once, with exact policy gradients of every sampled response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.lab.simulator.arms import Arm
from benchmarks.lab.simulator.kernels import Responses, sample, scatter_along, sum_along
from benchmarks.lab.simulator.machine import FEATURES, NUM_ACTIONS, NUM_CONTEXTS, Machine, find_policy, warm_up
from benchmarks.lab.simulator.measure import Curves, Recorder
from benchmarks.lab.simulator.optimizer import Optimizer
from benchmarks.lab.simulator.preferences import Preferences
from lambda_grpo_pl.objective import SurrogateConfig, clipped_surrogate

Floats = NDArray[np.float64]
SIZE = NUM_CONTEXTS * NUM_ACTIONS
ONES = np.ones(NUM_ACTIONS)
"""Sums over the last, short axis: faster as a product than as a sum."""
HELDOUT_STREAM = 1 << 32
"""Streams from here on are held-out rollouts."""
TEST_STREAM = 1 << 33
"""The stream of the final test."""
SHUFFLE_STREAM = 1 << 34


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and with what batches a run trains."""

    num_updates: int = 150
    """Rollouts, each of `num_prompts` × `group_size` responses."""
    num_prompts: int = 32
    """Prompts per rollout."""
    group_size: int = 8
    """Responses per prompt."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Plain SGD, or Adam with the package's constants."""
    num_epochs: int = 1
    """Passes over a rollout."""
    num_minibatches: int = 1
    """Parts of a rollout, one optimizer step each."""
    num_blocks: int = 15
    """Points of the recorded curves."""
    test_prompts: int = 256
    """Held-out prompts of the final test, with 8 responses each."""


class Watcher(Protocol):
    """Looks at the first optimizer step of each rollout before it is taken, and changes nothing."""

    def __call__(self, update: int, step: Step, lengths: NDArray[np.int64], advantages: Floats) -> None:
        """Look at a step; lengths (as f sees them) and advantages are [S, B, G]."""


def train(
    machine: Machine, arm: Arm, seeds: NDArray[np.int64], rates: Floats, schedule: Schedule,
    path: Floats | None = None, watcher: Watcher | None = None,
) -> Curves:  # fmt: skip
    """Train one run per entry of `seeds` with the learning rate of the same entry of `rates`.

    `path` [updates, S] prescribes λ (for a placebo). Runs with the same seed see the same prompts and draws.
    """
    parameters = warm_up(machine, seeds)
    start = find_policy(parameters)
    optimizer = Optimizer(schedule.optimizer, rates, parameters.shape)
    preferences = Preferences(arm, len(seeds), machine.limit)
    recorder = Recorder(schedule.num_updates // schedule.num_blocks, start)
    shape = (len(seeds), schedule.num_prompts, schedule.group_size)
    for update in range(schedule.num_updates):
        policy = find_policy(parameters)
        responses = sample(machine, policy, seeds, update, *shape[1:])
        lengths = _seen_lengths(machine, responses, shape, update)
        rewards = responses.correct.reshape(shape)
        advantages = preferences.compute_advantages(_shape_rewards(arm, rewards, lengths, machine.limit))
        if path is None:
            preferences.observe(lengths, advantages, rewards)
        else:
            preferences.lam = torch.from_numpy(path[update])
        recorder.start(update, responses, policy, shape)
        for number, prompts in enumerate(_parts(schedule)):
            weights = preferences.weigh(lengths[:, prompts], advantages[:, prompts])
            current = find_policy(parameters) if number else policy
            step = Step(policy, current, responses, advantages, prompts, arm.surrogate)
            if watcher is not None and number == 0:
                watcher(update, step, lengths[:, prompts], advantages[:, prompts])
            gradient, surrogates = step.differentiate(weights)
            if arm.rule == "validation":
                surrogates = _heldout_products(machine, step, preferences, seeds, update, shape, rates)
            if arm.rule in ("surrogate", "validation"):
                preferences.learn(lengths[:, prompts], surrogates)
            optimizer.step(parameters, gradient)
        recorder.finish(lengths[:, prompts], advantages[:, prompts], weights, gradient, preferences)
    test = sample(machine, find_policy(parameters), seeds, TEST_STREAM, schedule.test_prompts, 8)
    return recorder.curves(test)


def _parts(schedule: Schedule) -> list[slice]:
    """Return the prompts of each optimizer step of a rollout."""
    size = schedule.num_prompts // schedule.num_minibatches
    return [slice(i * size, (i + 1) * size) for i in range(schedule.num_minibatches)] * schedule.num_epochs


def _seen_lengths(
    machine: Machine, responses: Responses, shape: tuple[int, int, int], update: int
) -> NDArray[np.int64]:
    """Return the lengths [S, B, G] that f sees: shuffled within each group, or padded, where the regime says so."""
    lengths = responses.lengths.reshape(shape)
    draws = np.random.default_rng([SHUFFLE_STREAM, update]).random(shape[1:])
    if machine.shuffle_lengths:
        lengths = np.take_along_axis(lengths, draws.argsort(-1)[None], -1)
    return np.where((draws < machine.padded) & responses.correct.reshape(shape), machine.limit, lengths)


def _shape_rewards(arm: Arm, correct: NDArray[np.bool_], lengths: NDArray[np.int64], limit: int) -> Floats:
    """Return the rewards [S, B, G]: 1 for a right response, less what the arm charges for its length."""
    relative = lengths / np.maximum(lengths.mean(-1, keepdims=True), 1)
    return np.asarray(correct / (1 + arm.relative_price * relative) - arm.length_price * lengths / limit)


class Step:
    """One optimizer step on some prompts of a rollout that `old` sampled."""

    def __init__(
        self, old: Floats, policy: Floats, responses: Responses, advantages: Floats, prompts: slice,
        surrogate: SurrogateConfig,
    ) -> None:  # fmt: skip
        self.policy, self.shape = policy, advantages[:, prompts].shape
        group = advantages.shape[-1]
        rows = slice(prompts.start * group, prompts.stop * group)
        self.tokens, self.lengths = responses.tokens[:, rows], responses.lengths[:, rows]
        self.advantages = advantages[:, prompts].reshape(self.lengths.shape)
        self.on_policy = policy is old
        self.log_ratio = np.zeros(0) if self.on_policy else np.log(policy / old).reshape(len(policy), SIZE)
        self.config = surrogate

    def differentiate(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the gradient of Σ weight · S in the parameters, and S [S, B, G]."""
        scale = weights.reshape(self.lengths.shape)
        if self.on_policy:
            values = self.lengths * self.advantages
            sums = scatter_along(scale * self.advantages, self.tokens, self.lengths, SIZE)
        elif self.config.ratio_level == "sequence":
            ratio = sum_along(self.log_ratio, self.tokens, self.lengths) / self.lengths
            values, slopes = _surrogate_and_slope(ratio, self.advantages, self.config)
            values = values * self.lengths
            sums = scatter_along(scale * slopes, self.tokens, self.lengths, SIZE)
        else:
            values, sums = self._differentiate_tokens(scale)
        return self.chain(sums), values.reshape(self.shape)

    def _differentiate_tokens(self, scale: Floats) -> tuple[Floats, Floats]:
        """Return S and Σ weight · ds/dlogπ per context and action. With token ratios s is a table for either sign."""
        values, sums = np.zeros(self.lengths.shape), np.zeros(self.log_ratio.shape)
        for sign in (1.0, -1.0):
            size = np.maximum(sign * self.advantages, 0.0)
            table, slopes = _surrogate_and_slope(self.log_ratio, np.full_like(self.log_ratio, sign), self.config)
            values += size * sum_along(table, self.tokens, self.lengths)
            sums += slopes * scatter_along(scale * size, self.tokens, self.lengths, SIZE)
        return values, sums

    def chain(self, sums: Floats) -> Floats:
        """Return the gradient in the parameters from that in the log-probabilities [S, contexts · actions]."""
        table = sums.reshape(self.policy.shape)
        return np.asarray(np.matmul(FEATURES.T, table - self.policy * (table @ ONES)[..., None]))

    def products(self, direction: Floats) -> Floats:
        """Return ⟨direction, ∇S_i⟩ [S, B, G] at the sampling policy, `direction` being [S, features, actions]."""
        moved = np.matmul(FEATURES, direction)
        centred = moved - ((self.policy * moved) @ ONES)[..., None]
        along = sum_along(centred.reshape(len(centred), SIZE), self.tokens, self.lengths)
        return np.asarray(self.advantages * along).reshape(self.shape)


def _surrogate_and_slope(log_ratio: Floats, advantages: Floats, config: SurrogateConfig) -> tuple[Floats, Floats]:
    """Return the package's clipped surrogate and its derivative in the log-ratio, elementwise."""
    ratio = torch.from_numpy(log_ratio).requires_grad_()
    value, _ = clipped_surrogate(ratio, torch.from_numpy(advantages), config)
    (slope,) = torch.autograd.grad(value.sum(), ratio)
    return value.detach().numpy(), slope.numpy()


def heldout_gradient(
    machine: Machine, step: Step, seeds: NDArray[np.int64], stream: int, num_prompts: int, group_size: int,
    price: float = 0.0,
) -> Floats:  # fmt: skip
    """Return ∇J_heldout [S, features, actions], J_heldout being the expected reward R − price · tokens / limit.

    It is estimated without bias from fresh responses of the sampling policy; `stream` counts from `HELDOUT_STREAM`.
    """
    heldout = sample(machine, step.policy, seeds, HELDOUT_STREAM + stream, num_prompts, group_size)
    lengths = heldout.lengths.reshape(len(seeds), num_prompts, group_size)
    rewards = heldout.correct.reshape(lengths.shape) - price * lengths / machine.limit
    above = (rewards - rewards.mean(-1, keepdims=True)).reshape(heldout.lengths.shape)
    scale = group_size / (group_size - 1) / above.shape[1]  # the leave-one-out baseline, without bias
    return step.chain(scatter_along(above * scale, heldout.tokens, heldout.lengths, SIZE))


def _heldout_products(
    machine: Machine, step: Step, preferences: Preferences, seeds: NDArray[np.int64], update: int,
    shape: tuple[int, int, int], rates: Floats,
) -> Floats:  # fmt: skip
    """Return η⟨∇J_heldout, ∇S_i⟩ [S, B, G], with as many held-out responses as training ones."""
    direction = heldout_gradient(machine, step, seeds, update, *shape[1:], preferences.arm.heldout_price)
    return step.products(direction) * rates[:, None, None]
