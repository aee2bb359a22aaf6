"""Student's t distribution for fractional degrees of freedom, so that comparing runs needs no scipy."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
LARGE = 1e6
"""Degrees of freedom from which the normal distribution is used."""


def upper_tail(value: float, freedom: float) -> float:
    """Return P(T ≥ value).

    With t = √ν tan θ the density is proportional to cos^(ν−1) θ, which Gauss–Legendre integrates from the value's angle
    to the right angle, or to where nothing is left. Small probabilities keep their relative precision.
    """
    if value < 0:
        return 1.0 - upper_tail(-value, freedom)
    if freedom > LARGE:
        return 0.5 * math.erfc(value / math.sqrt(2))
    start = math.atan2(value, math.sqrt(freedom))
    width = min(math.pi / 2 - start, 12 / math.sqrt(freedom))
    angles = start + width * (NODES + 1) / 2
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    return min(1.0, width / 2 * float(WEIGHTS @ np.exp(log_scale + (freedom - 1) * np.log(np.cos(angles)))))


def two_sided_p(value: float, freedom: float) -> float:
    """Return P(|T| ≥ |value|)."""
    return min(1.0, 2 * upper_tail(abs(value), freedom))


def student_quantile(probability: float, freedom: float) -> float:
    """Return the t with P(T ≤ t) = `probability`, which must be above 0 and below 1, by bisection."""
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while upper_tail(high, freedom) > 1 - probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle, freedom) > 1 - probability else (low, middle)
    return (low + high) / 2
