"""The lab's tests: paired by seed, Holm within a regime, equivalence within one point, power before the run.

The tests themselves are the package's (`lambda_grpo_pl.evaluation`): the bootstrap resamples seeds, and questions too
where every seed answered the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import ALPHA, MARGIN, Contrast
from lambda_grpo_pl.evaluation.differences import compare_averages, equivalence_p, holm
from lambda_grpo_pl.evaluation.seeds import power_over_seeds, seeds_needed

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Finding:
    """One contrast in one regime."""

    regime: str
    arm: str
    baseline: str
    difference: float
    """Mean over seeds of arm − baseline."""
    low: float
    high: float
    """The 95 % interval, not adjusted."""
    p_value: float
    p_holm: float
    p_equivalence: float
    """Of TOST within ± `MARGIN`."""
    sd: float
    """Standard deviation over seeds of the paired difference."""
    num_seeds: int
    seeds_for_a_point: int | None
    """Paired seeds that find a difference of one point with a probability of 80 %; None beyond 100,000."""

    @property
    def verdict(self) -> Verdict:
        """What the contrast shows: a difference goes before equivalence, for a tiny one can be both."""
        if self.p_holm < ALPHA:
            return "better" if self.difference > 0 else "worse"
        return "equivalent" if self.p_equivalence < ALPHA else "undecided"

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


def as_table(values: Sequence[float] | Floats) -> Floats:
    """Return scores [seeds] or [seeds, questions] as [seeds, questions]."""
    scores = np.asarray(values, dtype=np.float64)
    return scores[:, None] if scores.ndim == 1 else scores


def find_contrasts(
    regime: str, contrasts: Sequence[Contrast], scores: Mapping[str, Sequence[float] | Floats]
) -> list[Finding]:
    """Test the contrasts whose two arms have scores, adjusted together.

    `scores` maps an arm to its accuracies [seeds], or [seeds, questions] if all seeds answered the same questions; row
    i has the same seed in every arm.
    """
    present = [each for each in contrasts if each.arm in scores and each.baseline in scores]
    found = []
    for contrast in present:
        before, after = as_table(scores[contrast.baseline]), as_table(scores[contrast.arm])
        comparison = compare_averages([before], [after])
        differences = (after - before).mean(axis=1)
        # Without any difference there is no standard error to test equivalence with, and no doubt about it either.
        equal = not np.any(after != before)
        found.append((contrast, comparison, differences, 0.0 if equal else equivalence_p(comparison, MARGIN)))
    adjusted = holm([comparison.p_value for _, comparison, _, _ in found])
    return [
        Finding(
            regime, contrast.arm, contrast.baseline, *comparison.difference, comparison.p_value, p_holm, p_equivalence,
            float(differences.std(ddof=1)), len(differences), count_seeds_for(MARGIN, float(differences.std(ddof=1))),
        )
        for (contrast, comparison, differences, p_equivalence), p_holm in zip(found, adjusted, strict=True)
    ]  # fmt: skip


def count_seeds_for(effect: float, sd: float) -> int | None:
    """Return how many paired seeds find `effect` with a probability of 80 %; 2 without noise, None beyond 100,000."""
    if sd <= 0:
        return 2
    try:
        return seeds_needed(effect, sd)
    except ValueError:
        return None


def smallest_effect(sd: float, num_seeds: int, power: float = 0.8) -> float:
    """Return the true difference that `num_seeds` paired seeds find with probability `power`."""
    if sd <= 0:
        return 0.0
    low, high = 0.0, 20 * sd
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if power_over_seeds(middle, sd, num_seeds) >= power else (middle, high)
    return high


def describe_power(name: str, sd: float, num_seeds: int) -> str:
    """Return the sentence that is printed before the reported seeds run."""
    if sd <= 0:
        return f"{name}: the tuning seeds do not differ."
    needed = count_seeds_for(MARGIN, sd)
    power = power_over_seeds(MARGIN, sd, num_seeds)
    return (
        f"{name}: the paired difference varies by {100 * sd:.1f} points (sd over the tuning seeds). {num_seeds} seeds "
        f"find one point with probability {power:.2f}, and {100 * smallest_effect(sd, num_seeds):.1f} points with "
        f"0.80; one point takes {needed or 'over 100,000'} seeds."
    )


def smooth(scores: Mapping[float, float]) -> dict[float, float]:
    """Return each learning rate's score averaged with its neighbors'; the rates at the edges have none.

    NumPy adds the three, for Python's own `sum` rounds otherwise from 3.12 on, and two rates may be that close.
    """
    rates = sorted(scores)
    return {rates[i]: float(np.mean([scores[rate] for rate in rates[i - 1 : i + 2]])) for i in range(1, len(rates) - 1)}


def at_equal_tokens(curves: Mapping[str, tuple[Floats, Floats]]) -> tuple[float, dict[str, Floats]]:
    """Return a budget of sampled tokens that every arm reaches, and each seed's accuracy there, per arm.

    `curves` maps an arm to its accuracies and its sampled tokens so far, [seeds, blocks] each. The budget is the
    smallest of the arms' mean totals; a block's accuracy counts at its middle, and a seed that stops short keeps its
    last one.
    """
    budget = min(float(tokens[:, -1].mean()) for _, tokens in curves.values())
    found = {}
    for name, (accuracy, tokens) in curves.items():
        middle = (tokens + np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)) / 2
        found[name] = np.array([np.interp(budget, middle[i], accuracy[i]) for i in range(len(tokens))])
    return budget, found
