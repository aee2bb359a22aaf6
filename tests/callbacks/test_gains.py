"""The sentence at the end of a run: which preference would have helped, if that is known."""

import math
from statistics import mean, stdev

import pytest
from scipy.stats import t

from lambda_grpo_pl.callbacks.gains import Gains, judge_gains, record_gains

OWN = [1.0, 1.2, 0.8, 1.1, 0.9]
BETTER = [1.5, 1.6, 1.4, 1.5, 1.6]
NOISY = [9.0, -7.0, 4.0, -3.0, 3.0]


def test_gains_are_recorded_by_method() -> None:
    gains: Gains = {}
    for value in (0.5, 0.25):
        record_gains(
            gains, {"lens/grpo/gain": value, "lens/grpo/gain_low": 0.0, "lens/own/gain": 1.0, "reward/mean": 2}
        )
    assert gains == {"grpo": [0.5, 0.25], "own": [1.0, 1.0]}


def test_a_clear_gain_is_said_with_its_interval_and_its_caveats() -> None:
    """Differences from the run's own weights, batch by batch; two methods are compared at once."""
    verdict = judge_gains({"own": OWN, "grpo": BETTER, "dapo": [0.5 * value for value in OWN]})
    differences = [a - b for a, b in zip(BETTER, OWN, strict=True)]
    margin = float(t.ppf(1 - 0.025 / 2, 4)) * stdev(differences) / math.sqrt(5)
    low, high = mean(differences) - margin, mean(differences) + margin
    assert verdict.startswith("On held-out prompts grpo would have gained more: 1.52 per unit of weight against 1 with")
    assert f"{low:+.2g} to {high:+.2g}, over 5 held-out batches and 2 methods" in verdict
    assert "does not say where a whole run would have ended" in verdict
    assert verdict.endswith("(docs/evidence.md).")


def test_no_difference_and_a_loss_are_said_too() -> None:
    assert "no other preference is known to gain more; the best is grpo" in judge_gains({"own": OWN, "grpo": NOISY})
    worse = [value - 0.5 for value in OWN[::-1]]
    assert "this run's own weights gained most; next is dapo" in judge_gains({"own": OWN, "dapo": worse})


@pytest.mark.parametrize(
    "gains",
    [
        {},
        {"own": OWN[:4], "grpo": BETTER[:4]},
        {"own": OWN},
        {"own": OWN, "dapo": [value * (1 + 1e-12) for value in OWN]},
    ],
    ids=["no lens", "four batches", "alone", "the same weights"],
)
def test_nothing_is_said_where_nothing_is_known(gains: Gains) -> None:
    assert judge_gains(gains) == ""
