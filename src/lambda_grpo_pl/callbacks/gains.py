"""Which length preference would have helped: the lens's gains on held-out prompts, over a whole run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from lambda_grpo_pl.evaluation.student import upper_quantile

PREFIX, SUFFIX, OWN = "lens/", "/gain", "own"
FEWEST_BATCHES = 5
"""Held-out batches without which no comparison is made."""
SAME = 1e-6
"""Relative difference below which a method weighs like the run itself."""
CAVEATS = (
    "This is first order in the step, for plain gradient descent and not Adam, at equal total weight Σ f |A| ℓ; it "
    "does not say where a whole run would have ended: in simulated runs its order was hardly better than chance "
    "(docs/evidence.md)."
)

Gains = dict[str, list[float]]
"""Method → gain on each held-out batch of the run."""


def record_gains(gains: Gains, metrics: Mapping[str, Any]) -> None:
    """Append the gains of one held-out batch, as they were just logged."""
    for name, value in metrics.items():
        if name.startswith(PREFIX) and name.endswith(SUFFIX):
            gains.setdefault(name.removeprefix(PREFIX).removesuffix(SUFFIX), []).append(float(value))


def judge_gains(gains: Gains) -> str:
    """Say in one sentence which preference would have helped, with its caveats; nothing if too little is known.

    Methods are compared with the run's own weights, batch by batch, and the interval holds for all of them at once
    (Bonferroni): each batch has other held-out prompts, so it covers both training and held-out prompts.
    """
    own = gains.get(OWN, [])
    scale = max((abs(value) for value in own), default=0.0)
    differences = {
        method: [value - base for value, base in zip(values, own, strict=True)]
        for method, values in gains.items()
        if method != OWN
    }
    others = {method: d for method, d in differences.items() if max(map(abs, d), default=0.0) > SAME * scale}
    if not others or len(own) < FEWEST_BATCHES:
        return ""
    best = max(others, key=lambda method: mean(others[method]))
    margin = upper_quantile(0.025 / len(others), len(own) - 1) * stdev(others[best]) / math.sqrt(len(own))
    low, high = mean(others[best]) - margin, mean(others[best]) + margin
    found = (
        f"{mean(gains[best]):.3g} per unit of weight against {mean(own):.3g} with this run's own weights (95 % "
        f"interval of the difference {low:+.2g} to {high:+.2g}, over {len(own)} held-out batches and {len(others)} "
        "methods)"
    )
    if low > 0:
        verdict = f"On held-out prompts {best} would have gained more: {found}."
    elif high < 0:
        verdict = f"On held-out prompts this run's own weights gained most; next is {best} with {found}."
    else:
        verdict = f"On held-out prompts no other preference is known to gain more; the best is {best} with {found}."
    return f"{verdict} {CAVEATS}"
