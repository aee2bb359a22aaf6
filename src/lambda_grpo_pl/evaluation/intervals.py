"""What a score means: estimators over several samples, intervals over questions, and tests between two runs.

The unit of every interval and test is the *question*: samples of one question are not independent, questions are. All
functions are pure numpy on arrays with one value per question, and every random one takes its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 10_000
NORMAL = NormalDist()
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its bounds, all in the unit of the score."""

    mean: float
    """Mean over questions."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""


class Comparison(NamedTuple):
    """How two runs differ on the same questions."""

    difference: Interval
    """Mean of (second − first) over questions, with its paired bootstrap interval."""
    p_bootstrap: float
    """Two-sided p-value of the paired bootstrap under equal means."""
    p_mcnemar: float | None
    """Two-sided exact McNemar p-value; None where a question's value is not simply right or wrong."""
    num_questions: int
    """Questions both runs answered."""


def pass_at_k(num_samples: int, num_correct: ArrayLike, k: int) -> Floats:
    """Return the unbiased chance that k of n samples hold a correct one, per question.

    1 − C(n−c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1) as a product of k factors in [0, 1], so no
    binomial overflows. `num_correct` [Q] counts c of n. Raises `ValueError` unless 1 ≤ k ≤ n.
    """
    _check_k(k, num_samples)
    wrong = num_samples - np.asarray(num_correct, dtype=np.float64)
    drawn = np.arange(k, dtype=np.float64)
    factors = np.clip((wrong[..., None] - drawn) / (num_samples - drawn), 0.0, 1.0)
    return np.asarray(1.0 - factors.prod(axis=-1), dtype=np.float64)


def best_at_k(scores: ArrayLike, k: int) -> Floats:
    """Return the expected best score among k of the n samples drawn without replacement, per question.

    `scores` is [Q, n]; the i-th smallest of n is the best of k with chance C(i−1, k−1) / C(n, k). For 0/1 scores it
    is pass@k. Raises `ValueError` unless 1 ≤ k ≤ n.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    _check_k(k, n)
    # C(i, k-1) / C(n, k) for i = 0 … n-1 as exact integers: a ratio of Python ints never overflows
    chances = np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)])
    return np.asarray(ordered @ chances, dtype=np.float64)


def majority_vote(answers: Sequence[int], correct: Sequence[bool]) -> float:
    """Return the chance that the most frequent answer is correct; ties are drawn, so order does not matter.

    `answers` holds one class of equal answers per sample, negative where none was found: those do not vote, and a
    question without a vote scores 0.
    """
    votes: dict[int, int] = {}
    right: dict[int, bool] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer >= 0:
            votes[answer] = votes.get(answer, 0) + 1
            right[answer] = bool(is_correct)
    most = max(votes.values(), default=0)
    winners = [right[answer] for answer, count in votes.items() if count == most]
    return sum(winners) / len(winners) if winners else 0.0


def wilson_interval(successes: float, num_trials: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (1927), which is honest at 0 and at 1."""
    z = NORMAL.inv_cdf((1 + confidence) / 2)
    share = successes / num_trials
    centre = (share + z * z / (2 * num_trials)) / (1 + z * z / num_trials)
    half = z / (1 + z * z / num_trials) * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over questions with its bias-corrected and accelerated bootstrap interval.

    Questions are drawn with replacement (BCa, Efron 1987). A mean of 0/1 values takes few distinct values, so quantiles
    are read from the mid-distribution (half of a tie counts as below), which keeps coverage between 94 and 97 % for
    accuracies of 5 to 95 % on 100 questions and more. Equal values have no spread to draw from: inside [0, 1] Wilson's
    interval stands in, elsewhere the interval is that value.

    `values` is [Q]. Raises `ValueError` for no question or for values that are not finite.
    """
    return average_interval([values], confidence, num_resamples, seed)


def average_interval(
    benchmarks: Sequence[ArrayLike], confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """Return the plain average over benchmarks with that interval; each benchmark is resampled by itself."""
    strata = [_questions(values) for values in benchmarks]
    if any(np.ptp(stratum) > 0 for stratum in strata):
        return _bca(strata, confidence, num_resamples, seed)
    bounds = [
        wilson_interval(stratum.sum(), stratum.size, confidence) if 0 <= stratum[0] <= 1 else [stratum[0]] * 3
        for stratum in strata
    ]
    return Interval(*np.mean(bounds, axis=0).tolist())


def compare_paired(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two runs on the same questions, `first` [Q] and `second` [Q] in the same order.

    The difference's interval and p-value come from resampling questions, both runs at once; where every value is 0 or 1
    McNemar's exact test is reported beside them. Raises `ValueError` where the two have different numbers of questions.
    """
    return compare_averages([first], [second], confidence, num_resamples, seed)


def compare_averages(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs' plain averages over benchmarks, paired by question inside each benchmark."""
    before, after = [_questions(values) for values in first], [_questions(values) for values in second]
    sizes = [(one.size, other.size) for one, other in zip(before, after, strict=True)]
    if any(one != other for one, other in sizes):
        raise ValueError(f"Runs with {sizes} questions cannot be paired: keep the questions that both answered.")
    strata = [other - one for one, other in zip(before, after, strict=True)]
    mean = float(np.mean([stratum.mean() for stratum in strata]))
    flat = all(np.ptp(stratum) == 0 for stratum in strata)
    interval = Interval(mean, mean, mean) if flat else _bca(strata, confidence, num_resamples, seed)
    pooled = np.concatenate(strata)
    binary = len(strata) == 1 and bool(np.isin([before[0], after[0]], (0.0, 1.0)).all())
    p_mcnemar = mcnemar(int((pooled < 0).sum()), int((pooled > 0).sum())) if binary else None
    return Comparison(interval, _p_value(strata, num_resamples, seed), p_mcnemar, pooled.size)


def mcnemar(num_lost: int, num_won: int) -> float:
    """Return McNemar's exact two-sided p-value (1947) from the questions only one of two runs answered correctly."""
    discordant = num_lost + num_won
    ways = tail = 1  # C(discordant, i), exact, each from the one before
    for i in range(min(num_lost, num_won)):
        ways = ways * (discordant - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979) in the given order: those below α hold among all that were tested."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = running
    return adjusted


def _bca(strata: Sequence[Floats], confidence: float, num_resamples: int, seed: int) -> Interval:
    """Return the BCa interval of the mean of the strata's means, at least one of which varies."""
    mean = float(np.mean([stratum.mean() for stratum in strata]))
    points, levels = _mid_distribution(_resampled_averages(strata, num_resamples, seed))
    influence = np.concatenate([(stratum - stratum.mean()) / stratum.size for stratum in strata])
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    bias = NORMAL.inv_cdf(float(np.clip(np.interp(mean, points, levels), 1e-6, 1 - 1e-6)))
    bounds = []
    for side in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + NORMAL.inv_cdf(side)
        bounds.append(float(np.interp(NORMAL.cdf(bias + shifted / (1 - acceleration * shifted)), levels, points)))
    return Interval(mean, bounds[0], bounds[1])


def _p_value(strata: Sequence[Floats], num_resamples: int, seed: int) -> float:
    """Return the two-sided p-value of an average difference of 0.

    The differences are shifted to mean 0 (the null hypothesis) and resampled; p is the share of resampled means at
    least as far from 0 as the observed one, counting the observed one itself (Davison and Hinkley 1997, §4.4).
    """
    observed = abs(float(np.mean([stratum.mean() for stratum in strata])))
    if all(np.ptp(stratum) == 0 for stratum in strata):  # nothing to resample: the sign test
        return 1.0 if observed == 0 else 2.0 ** (1 - sum(stratum.size for stratum in strata))
    means = _resampled_averages([stratum - stratum.mean() for stratum in strata], num_resamples, seed)
    return float((np.count_nonzero(np.abs(means) >= observed - 1e-12) + 1) / (num_resamples + 1))


def _resampled_averages(strata: Sequence[Floats], num_resamples: int, seed: int) -> Floats:
    """Return `num_resamples` averages over strata, each stratum's questions drawn with replacement."""
    draws = [_resampled_means(stratum, num_resamples, [seed, i]) for i, stratum in enumerate(strata)]
    return np.asarray(np.mean(draws, axis=0), dtype=np.float64)


def _resampled_means(questions: Floats, num_resamples: int, seed: Sequence[int]) -> Floats:
    """Return the means of `num_resamples` draws of Q questions with replacement.

    Only how often each distinct value is drawn matters, so one multinomial over distinct values stands for Q draws.
    """
    levels, counts = np.unique(questions, return_counts=True)
    random = np.random.default_rng(seed)
    block = max(1, 4_000_000 // levels.size)  # bounds memory: 32 MB of counts at a time
    means = [
        random.multinomial(questions.size, counts / questions.size, min(block, num_resamples - start)) @ levels
        for start in range(0, num_resamples, block)
    ]
    return np.asarray(np.concatenate(means) / questions.size, dtype=np.float64)


def _mid_distribution(means: Floats) -> tuple[Floats, Floats]:
    """Return the distinct means, ascending, and the share below each plus half the share at it."""
    points, counts = np.unique(means.round(12), return_counts=True)
    levels = (np.cumsum(counts) - counts / 2) / means.size
    return points, levels


def _questions(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ValueError("There is no question to average over: evaluate at least one.")
    if not np.isfinite(array).all():
        raise ValueError("A question's score is not finite: look for a failed verifier or a reward that returns NaN.")
    return array


def _check_k(k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}: choose it between 1 and the {num_samples} samples per question.")
