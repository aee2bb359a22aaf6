"""The state machine that a tabular policy writes responses for, and the regimes that are settings of it.

A prompt is a sequence of steps, each of one of 200 types. Type d asks for the digit d mod 4. A response answers the
steps in order and then ends; its reward is 1 if every digit was right and it ended before the limit. In each context
(a step's type, or one of three others) the policy chooses among 4 digits, a padding token and an end token. Its logits
are linear in features: the types have random vectors in 109 dimensions and one common feature, and therefore share
parameters, as contexts do in a network; the three other contexts have a dimension each. That makes 113 × 6 = 678
parameters. The regimes differ in
what happens after an error, after the answer and at a padding token: this controls how the lengths of right and wrong
responses differ, and where the extra tokens are spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lambda_grpo_pl.errors import UserError

NUM_TYPES = 200
NUM_SHARED = 110
NUM_DIGITS = 4
PAD, END = NUM_DIGITS, NUM_DIGITS + 1
NUM_ACTIONS = NUM_DIGITS + 2
FINISH, LOST, LONG_FINISH = NUM_TYPES, NUM_TYPES + 1, NUM_TYPES + 2
NUM_CONTEXTS, NUM_FEATURES = NUM_TYPES + 3, NUM_SHARED + 3
COMMON = 0.25
"""The types' common feature; the vector of their own features has length 1."""
WARM_UP_STEPS, WARM_UP_RATE, WARM_UP_MOMENTUM = 300, 0.2, 0.9

AfterError = Literal["continue", "stop", "stuck", "lost"]
AFTER_ERROR: tuple[AfterError, ...] = ("continue", "stop", "stuck", "lost")
"""In the order of the kernels' codes."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One regime: how responses run, and where the warm-up leaves the policy."""

    summary: str
    """One sentence for the report."""
    after_error: AfterError
    """continue: the answer goes on and is wrong; stop: the response ends; stuck: it wanders through the contexts of
    valid steps until it happens to end; lost: it wanders in a context of its own."""
    num_steps: tuple[int, int]
    """Shortest and longest prompt, in steps."""
    limit: int
    """Longest response in tokens; a longer one is cut and wrong."""
    right: float
    """Probability of a step's right digit after the warm-up, on average over the types."""
    pad: float = 0.002
    """Probability of padding at a step after the warm-up."""
    end: float = 0.002
    """Probability of ending at a step, which makes the response wrong."""
    finish: float = 0.95
    """Probability of ending after the last step; the rest is padding."""
    long_finish: float | None = None
    """Where set, half of the responses end with this probability instead."""
    lost_end: float = 0.02
    """Probability of ending where the response is lost."""
    slip: float = 0.0
    """Probability that the environment spoils a right digit, unless padding came before it."""
    hazard: float = 0.0
    """Probability that padding at a step is an error."""
    shuffle_lengths: bool = False
    """Whether f sees the lengths of each group in a random order: a null in which length says nothing."""
    padded: float = 0.0
    """Share of the right responses that an adversary pads: f sees them as long as the limit."""
    demonstrations: int = 60
    """Demonstrated tokens per context: fewer leave a warm-up that differs more between types and seeds."""


MACHINES: dict[str, Machine] = {
    "stuck": Machine(
        summary="After an error the answer wanders uselessly, in the same contexts as valid steps.",
        after_error="stuck", num_steps=(8, 8), limit=96, right=0.86, end=0.02, finish=0.95,
    ),
    "hazard": Machine(
        summary="As stuck, and padding at a step is risky.",
        after_error="stuck", num_steps=(8, 8), limit=96, right=0.86, pad=0.08, end=0.02, hazard=0.5,
    ),
    "failfast": Machine(
        summary="The first error ends the answer; a right one takes 24 steps.",
        after_error="stop", num_steps=(24, 24), limit=48, right=0.965,
    ),
    "lost": Machine(
        summary="After an error the answer rambles in a context of its own.",
        after_error="lost", num_steps=(8, 8), limit=96, right=0.86, lost_end=0.02,
    ),
    "noise": Machine(
        summary="Right and wrong answers are padded, half of them for long.",
        after_error="continue", num_steps=(8, 8), limit=128, right=0.86, finish=0.3, long_finish=0.015,
    ),
    "early": Machine(
        summary="Some answers end before the last step.",
        after_error="continue", num_steps=(12, 12), limit=64, right=0.92, end=0.04,
    ),
    "cliff": Machine(
        summary="Padding after the answer runs against the limit.",
        after_error="continue", num_steps=(8, 8), limit=48, right=0.86, finish=0.035,
    ),
    "think": Machine(
        summary="Padding before a step prevents slips.",
        after_error="continue", num_steps=(8, 8), limit=96, right=0.74, pad=0.18, slip=0.15,
    ),
    "mixture": Machine(
        summary="Lengths differ between prompts only.",
        after_error="continue", num_steps=(3, 15), limit=64, right=0.86, finish=0.999, pad=0.0005, end=0.0005,
    ),
    "equal": Machine(
        summary="Null: every response has the same length.",
        after_error="continue", num_steps=(8, 8), limit=9, right=0.86, pad=0.0, end=0.0, finish=1.0,
    ),
    "shuffled": Machine(
        summary="Null: stuck, but f sees each group's lengths in a random order.",
        after_error="stuck", num_steps=(8, 8), limit=96, right=0.86, end=0.02, shuffle_lengths=True,
    ),
    "padded": Machine(
        summary="stuck, but an adversary pads half of the right responses to the limit.",
        after_error="stuck", num_steps=(8, 8), limit=96, right=0.86, end=0.02, padded=0.5,
    ),
}  # fmt: skip
"""Every regime by name."""


def find_machine(name: str) -> Machine:
    """Return the regime called `name`. Raises `UserError` for another name."""
    if name not in MACHINES:
        raise UserError(f"There is no simulated regime {name!r}: choose from {', '.join(MACHINES)}.")
    return MACHINES[name]


def demonstrated(machine: Machine) -> NDArray[np.float64]:
    """Return the demonstrator's probabilities [contexts, actions], which the warm-up imitates."""
    probabilities = np.zeros((NUM_CONTEXTS, NUM_ACTIONS))
    wrong = (1 - machine.right - machine.pad - machine.end) / (NUM_DIGITS - 1)
    probabilities[:NUM_TYPES, :NUM_DIGITS] = wrong
    probabilities[np.arange(NUM_TYPES), np.arange(NUM_TYPES) % NUM_DIGITS] = machine.right
    probabilities[:NUM_TYPES, PAD], probabilities[:NUM_TYPES, END] = machine.pad, machine.end
    long_finish = machine.finish if machine.long_finish is None else machine.long_finish
    for context, end in ((FINISH, machine.finish), (LOST, machine.lost_end), (LONG_FINISH, long_finish)):
        probabilities[context, END], probabilities[context, PAD] = end, 1 - end
    return probabilities


def make_features() -> NDArray[np.float64]:
    """Return the contexts' features [contexts, features], the same in every run."""
    own = np.random.default_rng(0).standard_normal((NUM_TYPES, NUM_SHARED - 1))
    features = np.zeros((NUM_CONTEXTS, NUM_FEATURES))
    features[:NUM_TYPES, 0] = COMMON
    features[:NUM_TYPES, 1:NUM_SHARED] = own / np.linalg.norm(own, axis=1, keepdims=True)
    features[NUM_TYPES:, NUM_SHARED:] = np.eye(3)
    return features


FEATURES = make_features()


def find_policy(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities [S, contexts, actions] of policies with `parameters` [S, features, actions]."""
    logits = np.matmul(FEATURES, parameters)
    _softmax(logits)
    return logits


@njit(cache=True)  # type: ignore[misc]
def _softmax(logits):  # type: ignore[no-untyped-def]
    """Turn logits [S, contexts, actions] into probabilities in place."""
    for run in range(logits.shape[0]):
        for context in range(logits.shape[1]):
            row = logits[run, context]
            largest, total = row.max(), 0.0
            for action in range(len(row)):
                row[action] = np.exp(row[action] - largest)
                total += row[action]
            for action in range(len(row)):
                row[action] /= total


def warm_up(machine: Machine, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the parameters [seeds, features, actions] of a supervised warm-up on demonstrated tokens.

    Cross-entropy on a finite sample of demonstrations per context, by gradient descent from 0.
    """
    missing = [seed for seed in np.unique(seeds).tolist() if (machine, seed) not in _WARMED_UP]
    if missing:
        found = _fit_demonstrations(machine, missing)
        _WARMED_UP.update({(machine, seed): one for seed, one in zip(missing, found, strict=True)})
    return np.stack([_WARMED_UP[machine, seed] for seed in seeds.tolist()])


_WARMED_UP: dict[tuple[Machine, int], NDArray[np.float64]] = {}
"""Every method of a regime starts from the same warm-ups."""


def _fit_demonstrations(machine: Machine, seeds: list[int]) -> NDArray[np.float64]:
    mean = demonstrated(machine)
    draws = [np.random.default_rng([seed, 1]).multinomial(machine.demonstrations, mean) for seed in seeds]
    shares = np.stack(draws) / machine.demonstrations
    parameters = np.zeros((len(seeds), NUM_FEATURES, NUM_ACTIONS))
    velocity = np.zeros_like(parameters)
    for _ in range(WARM_UP_STEPS):
        gradient = np.matmul(FEATURES.T, shares - find_policy(parameters))
        velocity = WARM_UP_MOMENTUM * velocity + WARM_UP_RATE * gradient
        parameters += velocity
    return parameters
