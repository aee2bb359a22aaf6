"""Planning and testing over training seeds: is an effect larger than seed noise, and how many seeds show it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lambda_grpo_pl.evaluation.intervals import Interval
from lambda_grpo_pl.evaluation.student import NODES, NORMAL, WEIGHTS, student_quantile, two_sided_p

MAX_SEEDS = 100_000


def compare_seeds(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> tuple[Interval, float]:
    """Return the mean of (second − first) over pairs of seeds with its t interval, and the paired t-test's p-value.

    `first` and `second` hold one score per seed, in the same order of seeds. The questions count as given: unlike
    `compare_averages`, this says nothing about other questions. Raises `ValueError` for fewer than two pairs.
    """
    differences = np.subtract(second, first, dtype=np.float64)
    if differences.size < 2 or len(first) != len(second):
        raise ValueError("A test over seeds needs at least two seeds that both methods ran.")
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(differences.size)
    half = student_quantile((1 + confidence) / 2, differences.size - 1) * error
    p_value = two_sided_p(mean / error, differences.size - 1) if error > 0 else float(mean == 0)
    return Interval(mean, mean - half, mean + half), p_value


def power_over_seeds(effect: float, seed_sd: float, num_seeds: int, alpha: float = 0.05) -> float:
    """Return the probability that the two-sided paired t-test over seeds finds a true effect at level `alpha`.

    `seed_sd` is the standard deviation over seeds of the paired difference, in the unit of `effect`. The noncentral t
    is integrated over the estimated standard deviation, whose square is chi-squared with S − 1 degrees of freedom.
    """
    if num_seeds < 2 or seed_sd <= 0:
        raise ValueError("Power over seeds needs at least two seeds and a positive standard deviation.")
    freedom = num_seeds - 1
    critical, shift = student_quantile(1 - alpha / 2, freedom), effect / seed_sd * math.sqrt(num_seeds)
    low, high = max(0.0, 1 - 9 / math.sqrt(2 * freedom)), 1 + 9 / math.sqrt(2 * freedom)
    ratios = low + (high - low) * (NODES + 1) / 2  # estimated over true standard deviation
    log_scale = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    density = np.exp(log_scale + (freedom - 1) * np.log(ratios) - freedom / 2 * ratios**2)
    found = [NORMAL.cdf(shift - critical * ratio) + NORMAL.cdf(-shift - critical * ratio) for ratio in ratios]
    return float((high - low) / 2 * (WEIGHTS @ (density * np.array(found))))


def seeds_needed(effect: float, seed_sd: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return the smallest number of paired seeds with which an effect is found with probability `power`.

    Raises `ValueError` if that takes more than 100,000 seeds.
    """
    if power_over_seeds(effect, seed_sd, MAX_SEEDS, alpha) < power:
        raise ValueError(f"More than {MAX_SEEDS} seeds are needed to find an effect of {effect:g}.")
    low, high = 1, MAX_SEEDS  # low is not enough, high is
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_over_seeds(effect, seed_sd, middle, alpha) >= power else (middle, high)
    return high
