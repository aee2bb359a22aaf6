"""The loops over tokens, compiled: sampling responses, and sums along them.

Randomness is counter-based: the draw for token t of a response depends on the run's seed, the update, the response and
t alone. Every method therefore sees the same prompts and the same draws, and a run's result does not depend on which
other runs are computed beside it.

Compiled code is kept beside this file until the file changes. What other files define (numbers of types and actions)
is therefore an argument and not a global, which would be compiled in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.lab.simulator.machine import AFTER_ERROR, NUM_TYPES, Machine

CONTINUE, STOP, STUCK, _ = range(len(AFTER_ERROR))
VALID, WANDERING, RAMBLING, FINISHING = range(4)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SCALE = 2.0**-24


class Responses(NamedTuple):
    """What was sampled for S runs, B prompts and G responses each."""

    tokens: NDArray[np.uint16]
    """[S, B·G, limit] context · actions + action; only the first `lengths` entries are written."""
    lengths: NDArray[np.int64]
    """[S, B·G] tokens."""
    correct: NDArray[np.bool_]
    """[S, B·G]"""
    truncated: NDArray[np.bool_]
    """[S, B·G]"""


def sample(
    machine: Machine, probabilities: NDArray[np.float64], seeds: NDArray[np.int64], stream: int, num_prompts: int,
    group_size: int,
) -> Responses:  # fmt: skip
    """Sample `group_size` responses to each of `num_prompts` prompts for every run.

    `probabilities` is [S, contexts, actions], and `stream` numbers the rollout: equal streams have equal prompts.
    """
    num_runs, num_responses = len(seeds), num_prompts * group_size
    cumulative = probabilities.cumsum(-1).astype(np.float32)
    tokens = np.empty((num_runs, num_responses, machine.limit), dtype=np.uint16)
    lengths = np.empty((num_runs, num_responses), dtype=np.int64)
    correct, truncated = (np.empty((num_runs, num_responses), dtype=np.bool_) for _ in range(2))
    codes = (
        AFTER_ERROR.index(machine.after_error),
        *machine.num_steps,
        int(machine.long_finish is not None),
        NUM_TYPES,
    )
    _sample(
        cumulative, seeds.astype(np.uint64), np.uint64(stream), group_size, np.array(codes),
        np.array([machine.slip, machine.hazard]), tokens, lengths, correct, truncated,
    )  # fmt: skip
    return Responses(tokens, lengths, correct, truncated)


@njit(cache=True)  # type: ignore[misc]
def _mix(state):  # type: ignore[no-untyped-def]
    """Return 64 random bits of a counter (splitmix64's output function)."""
    state = (state ^ (state >> np.uint64(30))) * MIX_1
    state = (state ^ (state >> np.uint64(27))) * MIX_2
    return state ^ (state >> np.uint64(31))


@njit(cache=True)  # type: ignore[misc]
def _sample(cumulative, seeds, stream, group_size, codes, chances, tokens, lengths, correct, truncated):  # type: ignore[no-untyped-def]
    num_responses = tokens.shape[1]
    steps = np.empty(codes[2], dtype=np.int64)
    for run in range(len(seeds)):
        base = _mix(_mix(seeds[run] + GOLDEN) + stream * GOLDEN)
        for i in range(num_responses):
            prompt = _mix(base + np.uint64(i // group_size + 1) * MIX_1)
            num_steps = codes[1] + np.int64(prompt % np.uint64(codes[2] - codes[1] + 1))
            for k in range(num_steps):
                steps[k] = np.int64(_mix(prompt + np.uint64(k + 1) * GOLDEN) % np.uint64(codes[4]))
            state = _mix(base + np.uint64(i + 1) * MIX_2)
            length, right, cut = _respond(cumulative[run], steps, num_steps, codes, chances, state, tokens[run, i])
            lengths[run, i], correct[run, i], truncated[run, i] = length, right, cut


@njit(cache=True)  # type: ignore[misc]
def _respond(cumulative, steps, num_steps, codes, chances, state, tokens):  # type: ignore[no-untyped-def]
    """Write one response into `tokens`; return its length, whether it is right, and whether it was cut."""
    after_error, num_types, slip, hazard = codes[0], codes[4], chances[0], chances[1]
    end = cumulative.shape[1] - 1
    pad = num_digits = end - 1
    finish = num_types + (2 if codes[3] == 1 and (state & np.uint64(1)) == np.uint64(1) else 0)
    step, mode, wrong, careful = 0, VALID, False, False
    for t in range(len(tokens)):
        state += GOLDEN
        bits = _mix(state)
        draw, chance = np.float64(bits >> np.uint64(40)) * SCALE, np.float64(bits & np.uint64(0xFFFFFF)) * SCALE
        if mode == VALID:
            context = steps[step]
        elif mode == WANDERING:
            context = np.int64(chance * num_types)
        else:
            context = num_types + 1 if mode == RAMBLING else finish
        action = 0
        for other in range(end):  # without a branch: which action comes is what a processor cannot predict
            action += np.int64(draw >= cumulative[context, other])
        tokens[t] = context * (end + 1) + action
        if action == end:
            return t + 1, mode == FINISHING and not wrong, False
        if mode != VALID:
            continue
        if action == pad:
            careful = True
            failed = chance < hazard
        else:
            failed = action != context % num_digits or (not careful and chance < slip)
            careful = False
        wrong = wrong or failed
        if failed and after_error == STOP:
            return t + 1, False, False
        if failed and after_error != CONTINUE:
            mode = WANDERING if after_error == STUCK else RAMBLING
        elif action != pad:
            step += 1
            if step == num_steps:
                mode = FINISHING
    return len(tokens), False, True


@njit(cache=True)  # type: ignore[misc]
def sum_along(table, tokens, lengths):  # type: ignore[no-untyped-def]
    """Return Σ_t table[run, token t] of each response, [S, N]; `table` is [S, contexts · actions]."""
    num_runs, num_responses = lengths.shape
    sums = np.zeros((num_runs, num_responses))
    for run in range(num_runs):
        for i in range(num_responses):
            total = 0.0
            for t in range(lengths[run, i]):
                total += table[run, tokens[run, i, t]]
            sums[run, i] = total
    return sums


@njit(cache=True)  # type: ignore[misc]
def scatter_along(weights, tokens, lengths, size):  # type: ignore[no-untyped-def]
    """Return Σ_i weights[run, i] · (how often response i holds each context and action), [S, size]."""
    num_runs, num_responses = lengths.shape
    sums = np.zeros((num_runs, size))
    for run in range(num_runs):
        for i in range(num_responses):
            weight = weights[run, i]
            if weight != 0.0:
                for t in range(lengths[run, i]):
                    sums[run, tokens[run, i, t]] += weight
    return sums
