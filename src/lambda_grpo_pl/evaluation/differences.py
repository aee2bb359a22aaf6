"""Whether two methods differ: tests on the same questions, over seeds, and for many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lambda_grpo_pl.evaluation.intervals import NUM_RESAMPLES, Interval, bca_interval
from lambda_grpo_pl.evaluation.resampling import Estimate, Floats
from lambda_grpo_pl.evaluation.student import StandardError


class Comparison(NamedTuple):
    """How two methods differ on the same questions."""

    difference: Interval
    """Mean of (second − first) over questions and seeds, with its paired bootstrap interval."""
    p_value: float
    """Two-sided p-value of equal means: of the bootstrap over questions, or of the error over several seeds."""
    p_mcnemar: float | None
    """Two-sided exact McNemar p-value; None unless every question is right or wrong, with one seed each."""
    num_questions: int
    """Questions that both methods answered."""
    error: StandardError
    """Standard error of the difference, over questions and seeds."""


def compare_averages(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    confidence: float = 0.95,
    paired_seeds: bool = True,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the plain averages of two methods over benchmarks, paired by question within each benchmark.

    Each benchmark is [Q], or [S, Q] for S seeds. With `paired_seeds`, row i of both methods has the same seed, and
    pairs of seeds are resampled; otherwise, or if the numbers of seeds differ, each method's seeds are. With one seed
    each, only questions are resampled, and the variance between seeds is not included.

    Raises `ValueError` if the methods have different numbers of questions.
    """
    estimate = Estimate.of_difference(first, second, paired_seeds)
    mean = estimate.mean
    error = estimate.standard_error()
    if estimate.is_constant:
        # Nothing to resample: the sign test.
        interval, p_value = Interval(mean, mean, mean), 1.0 if mean == 0 else 2.0 ** (1 - estimate.num_questions)
    else:
        draws = estimate.resample(num_resamples, seed)
        interval = bca_interval(estimate, draws, confidence)
        p_value = error.two_sided_p(mean) if estimate.varies_over_seeds else _bootstrap_p(draws, mean)
    return Comparison(interval, p_value, _mcnemar_of(first, second), estimate.num_questions, error)


def equivalence_p(comparison: Comparison, margin: float) -> float:
    """Return the p-value of TOST, two one-sided tests (Schuirmann 1987): small means |difference| < `margin`.

    `margin` is in the unit of the score. If all questions differ equally there is no standard error; a share of at
    least margin − |difference| that differs otherwise would stay unseen with the chance that is then returned.
    """
    if margin <= 0:
        raise ValueError(f"The margin of equivalence is {margin}: it must be above 0.")
    mean = comparison.difference.mean
    if comparison.error.value == 0:
        return (1 - min(1.0, margin - abs(mean))) ** comparison.num_questions if abs(mean) < margin else 1.0
    return comparison.error.upper_tail(margin - abs(mean))


def mcnemar(num_lost: int, num_won: int) -> float:
    """Return McNemar's exact two-sided p-value (1947); each number counts questions that only one run got right."""
    discordant = num_lost + num_won
    ways = tail = 1  # C(discordant, i), exact, each from the one before
    for i in range(min(num_lost, num_won)):
        ways = ways * (discordant - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979) in the given order: those below α hold among all tests."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = running
    return adjusted


def _mcnemar_of(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> float | None:
    before, after = (np.atleast_2d(np.asarray(side[0], dtype=np.float64)) for side in (first, second))
    if len(first) > 1 or len(before) > 1 or len(after) > 1 or not np.isin([before, after], (0.0, 1.0)).all():
        return None
    return mcnemar(int((after < before).sum()), int((after > before).sum()))


def _bootstrap_p(draws: Floats, mean: float) -> float:
    """Return the two-sided p-value of a mean of 0.

    The resamples are shifted to mean 0 (the null hypothesis); p is the share of them at least as far from 0 as the
    observed mean, which is counted too (Davison and Hinkley 1997, §4.4).
    """
    return float((np.count_nonzero(np.abs(draws - mean) >= abs(mean) - 1e-12) + 1) / (draws.size + 1))
