"""Does one order of methods foretell another: rank correlations, pairs in the right order, and the regret of a choice.

Everything works on means [..., methods], so that a bootstrap is one call on [resamples, methods].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import ALPHA
from lambda_grpo_pl.evaluation.differences import holm
from lambda_grpo_pl.evaluation.resampling import Estimate as Difference

Floats = NDArray[np.float64]
RESAMPLES = 4000
TIE = 1e-9
"""Relative difference up to which two values are equal but for rounding."""


class Estimate(NamedTuple):
    """A number and the same number in every resample of the seeds."""

    value: float
    draws: Floats

    def as_json(self) -> list[float]:
        """Return the value and its 95 % interval."""
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return [round(float(each), 5) for each in (self.value, low, high)]


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates."""
    return Estimate(
        float(np.mean([each.value for each in estimates])), np.mean([each.draws for each in estimates], axis=0)
    )


class Resampled(NamedTuple):
    """A mean over seeds and its resamples."""

    mean: Floats
    """[...]"""
    draws: Floats
    """[resamples, ...]"""


def make_shares(num_seeds: int, seed: int) -> Floats:
    """Return how much each seed counts in each resample, [resamples, seeds]."""
    counts = np.random.default_rng(seed).multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), RESAMPLES)
    return np.asarray(counts / num_seeds)


def resample(values: Floats, shares: Floats) -> Resampled:
    """Return the mean over the first axis, the seeds."""
    return Resampled(values.mean(0), shares @ values)


def pair_signs(values: Floats) -> Floats:
    """Return the sign of value i − value j for every pair of methods i < j, [..., pairs]."""
    return np.asarray(_all_signs(values)[..., *np.triu_indices(values.shape[-1], 1)])


def kendall(one: Floats, other: Floats) -> Floats:
    """Return Kendall's τ_b along the last axis."""
    return _cosine(pair_signs(one), pair_signs(other))


def spearman(one: Floats, other: Floats) -> Floats:
    """Return Spearman's correlation along the last axis; ties share their ranks' mean."""
    return _cosine(_centred_ranks(one), _centred_ranks(other))


def _centred_ranks(values: Floats) -> Floats:
    return np.asarray(_all_signs(values).sum(-1) / 2)


def _all_signs(values: Floats) -> Floats:
    """Return the sign of value i − value j, [..., methods, methods]."""
    differences = values[..., :, None] - values[..., None, :]
    size = np.abs(values).max(-1)[..., None, None]
    return np.asarray(np.where(np.abs(differences) > TIE * size, np.sign(differences), 0.0))


def _cosine(one: Floats, other: Floats) -> Floats:
    size = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return np.asarray((one * other).sum(-1) / np.where(size > 0, size, 1.0))


def choose_largest(values: Floats) -> Floats:
    """Return 1 for the method with the largest value, the first of equals, and 0 for the others."""
    return np.eye(values.shape[-1])[values.argmax(-1)]


def find_regret(choice: Floats, accuracy: Floats) -> Floats:
    """Return the best accuracy minus that of a choice, which is a share of each method."""
    return np.asarray(accuracy.max(-1) - (choice * accuracy).sum(-1))


def find_clear_pairs(accuracies: Floats) -> NDArray[np.bool_]:
    """Return which pairs of methods differ (Holm over the pairs), from paired accuracies [seeds, methods].

    The p-values are those of `compare_averages`, without its bootstrap intervals.
    """
    pairs = combinations(range(accuracies.shape[1]), 2)
    differences = [Difference.of_difference([accuracies[:, [j]]], [accuracies[:, [i]]]) for i, j in pairs]
    # A difference that is the same for every seed is that of equal weights, 0, and has no standard error.
    p_values = [1.0 if each.is_constant else each.standard_error().two_sided_p(each.mean) for each in differences]
    return np.array(holm(p_values)) < ALPHA


def compare_orders(score: Resampled, accuracy: Resampled, clear: NDArray[np.bool_]) -> dict[str, Estimate]:
    """Return how well `score` [methods] orders the methods by accuracy.

    `right` counts the clear pairs in order; one whose scores are equal counts half, as guessing would.
    """

    def count_right(score: Floats, accuracy: Floats) -> Floats:
        agreement = pair_signs(score)[..., clear] * pair_signs(accuracy)[..., clear]
        return np.asarray(((1 + agreement) / 2).sum(-1))

    def find_own_regret(score: Floats, accuracy: Floats) -> Floats:
        return find_regret(choose_largest(score), accuracy)

    measures = {"spearman": spearman, "kendall": kendall, "right": count_right, "regret": find_own_regret}
    return {
        name: Estimate(float(measure(score.mean, accuracy.mean)), measure(score.draws, accuracy.draws))
        for name, measure in measures.items()
    }
