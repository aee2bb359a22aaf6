"""Unbiased estimators of what n responses to a question say: pass@k, best@k and the majority vote."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(num_samples: int, num_correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return the unbiased chance that k of n samples hold a correct one, per question.

    1 − C(n−c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1) as a product of k factors in [0, 1], so no
    binomial overflows. `num_correct` [Q] counts c of n. Raises `ValueError` unless 1 ≤ k ≤ n.
    """
    _check_k(k, num_samples)
    wrong = num_samples - np.asarray(num_correct, dtype=np.float64)
    drawn = np.arange(k, dtype=np.float64)
    factors = np.clip((wrong[..., None] - drawn) / (num_samples - drawn), 0.0, 1.0)
    return np.asarray(1.0 - factors.prod(axis=-1), dtype=np.float64)


def best_at_k(scores: ArrayLike, k: int) -> NDArray[np.float64]:
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


def _check_k(k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}: choose it between 1 and the {num_samples} samples per question.")
