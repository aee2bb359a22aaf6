"""The package's lens in the simulator: what every fixed method would gain with the responses of the run that trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.lab.simulator.machine import Machine
from benchmarks.lab.simulator.train import Schedule, Step, heldout_gradient
from lambda_grpo_pl.objective import correlation_sums, pooled_correlation
from lambda_grpo_pl.objective.lens import (
    METHODS,
    OWN,
    SUMS,
    LensConfig,
    LensMethod,
    find_method,
    lens_sums,
    lens_values,
    lens_weights,
)

Floats = NDArray[np.float64]
LENS_NAMES = {"delta_l_075": METHODS["delta_l"], "delta_l_1": LensMethod("relative_power", -1.0)}
"""Arms whose name in the lens is another; ΔL with α is the relative power with λ = −α."""
HELDOUT_PARTS, HELDOUT_PROMPTS, HELDOUT_GROUP = 16, 512, 8
"""Held-out responses of one look, drawn in parts to spare memory: 256 times as many as a rollout has."""
OWN_ONLY = LensConfig(methods=())
"""The lens's functions, for weights that are handed over as `own`."""


class Looks(NamedTuple):
    """What the lens saw in S runs, at some updates, for M methods."""

    updates: list[int]
    """Before which the lens looked."""
    gain: Floats
    """[S, looks, M] the lens's gain; 0, like the next three, where all rewards of each group are equal."""
    step: Floats
    """[S, looks, M] the norm of the method's step, per unit of total weight as the gain is."""
    noise: Floats
    """[S, looks, M] the norm of the step's noise, from the difference between the halves of the prompts."""
    estimated_step: Floats
    """[S, looks, M] √(Σ w² A² ℓ), per unit of total weight: the norm of a sum of independent tokens' gradients."""
    correlation: Floats
    """[S, looks] corr(ℓ, A) within groups."""


class LensWatcher:
    """Looks at the first update and at the end of each block, with a gradient of J_heldout that has little noise."""

    def __init__(
        self, machine: Machine, seeds: NDArray[np.int64], schedule: Schedule, arms: Sequence[str]
    ) -> None:  # fmt: skip
        self.machine, self.seeds = machine, seeds
        self.methods = [find_lens_method(arm) for arm in arms]
        block = schedule.num_updates // schedule.num_blocks
        self.updates = sorted({0, *range(block - 1, schedule.num_updates, block)})
        self.rows: list[tuple[Floats, ...]] = []

    def __call__(self, update: int, step: Step, lengths: NDArray[np.int64], advantages: Floats) -> None:
        """Look at one step."""
        if update not in self.updates:
            return
        products = step.products(self._heldout_gradient(update, step))
        seen = torch.from_numpy(lengths), torch.from_numpy(advantages)
        weights = self._weigh(*seen)
        gain, total = look(weights, *seen, torch.from_numpy(products))
        norms = [_measure_step(step, each.numpy()) for each in weights.unbind(1)]
        step_norm, noise_norm = (_divide(np.stack(each, axis=1), total) for each in zip(*norms, strict=True))
        correlation = torch.stack([pooled_correlation(correlation_sums(*run)) for run in zip(*seen, strict=True)])
        squares = ((weights * seen[1][:, None]) ** 2 * seen[0][:, None]).sum((2, 3)).numpy()
        estimated = _divide(np.sqrt(squares), total)
        self.rows.append((gain, step_norm, noise_norm, estimated, correlation.nan_to_num().numpy()))

    def _heldout_gradient(self, update: int, step: Step) -> Floats:
        parts = [
            heldout_gradient(
                self.machine, step, self.seeds, update * HELDOUT_PARTS + part, HELDOUT_PROMPTS, HELDOUT_GROUP
            )
            for part in range(HELDOUT_PARTS)
        ]
        return np.asarray(sum(parts) / len(parts))

    def _weigh(self, lengths: Tensor, advantages: Tensor) -> Tensor:
        """Return every method's w up to a factor, [S, M, B, G]."""
        runs = zip(lengths, advantages, strict=True)
        return torch.stack([torch.stack([lens_weights(method, *run) for method in self.methods]) for run in runs])

    def looks(self) -> Looks:
        """Return everything seen."""
        return Looks(self.updates, *(np.stack(column, axis=1) for column in zip(*self.rows, strict=True)))


def find_lens_method(arm: str) -> LensMethod:
    """Return the weights by which the lens knows an arm."""
    return LENS_NAMES.get(arm) or find_method(arm)


def look(weights: Tensor, lengths: Tensor, advantages: Tensor, products: Tensor) -> tuple[Floats, Floats]:
    """Return the package's gain and the total weight Σ w |A| ℓ, [S, M] each, of weights [S, M, B, G].

    Lengths, advantages and T_i are [S, B, G].
    """
    gains, totals = np.zeros(weights.shape[:2]), np.zeros(weights.shape[:2])
    for run, method in np.ndindex(*gains.shape):
        sums = lens_sums(OWN_ONLY, weights[run, method], lengths[run], advantages[run], alignments=products[run])
        gains[run, method] = lens_values(OWN_ONLY, sums)[f"{OWN}/gain"]
        totals[run, method] = sums[0, SUMS.index("weight")]
    return gains, totals


def _divide(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def _measure_step(step: Step, weights: Floats) -> tuple[Floats, Floats]:
    """Return the norms [S] of a method's step and of its noise.

    The step is the sum of two independent halves, so their difference has no signal and the step's noise.
    """
    signs = np.where(np.arange(weights.shape[1]) < weights.shape[1] // 2, 1.0, -1.0)
    step_norm, noise_norm = (
        np.sqrt((step.differentiate(weights * sign)[0] ** 2).sum((1, 2))) for sign in (1.0, signs[:, None])
    )
    return step_norm, noise_norm
