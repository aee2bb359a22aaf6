"""Contrasts, equivalence, power and the budget of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lab.contrasts import ADAM_ARMS, CORE, EXTRA, SIMULATE, Contrast
from benchmarks.lab.simulator.arms import ARMS
from benchmarks.lab.statistics import (
    at_equal_tokens,
    count_seeds_for,
    describe_power,
    find_contrasts,
    smallest_effect,
)
from lambda_grpo_pl.evaluation.seeds import power_over_seeds

RANDOM = np.random.default_rng(0)
BASE = 0.5 + 0.03 * RANDOM.standard_normal(60)
NOISE = 0.02 * RANDOM.standard_normal(60)
NOISE -= NOISE.mean()


@pytest.mark.parametrize(
    ("effect", "noise", "verdict"),
    [(0.02, 1.0, "better"), (-0.02, 1.0, "worse"), (0.0, 0.1, "equivalent"), (0.004, 3.0, "undecided")],
)
def test_a_contrast_says_better_worse_equivalent_or_undecided(effect: float, noise: float, verdict: str) -> None:
    scores = {"dapo": BASE, "grpo": BASE + effect + noise * NOISE}
    (finding,) = find_contrasts("stuck", [Contrast("grpo", "dapo", "")], scores)
    assert finding.verdict == verdict
    assert finding.difference == pytest.approx(effect)
    assert finding.low <= effect <= finding.high


def test_identical_scores_are_equivalent_and_arms_that_did_not_run_are_left_out() -> None:
    contrasts = [Contrast("grpo", "dapo", ""), Contrast("lambda", "dapo", "")]
    (finding,) = find_contrasts("equal", contrasts, {"dapo": BASE, "grpo": BASE.copy()})
    assert (finding.verdict, finding.p_value, finding.sd) == ("equivalent", 1.0, 0.0)


def test_contrasts_of_a_regime_are_adjusted_together() -> None:
    """Holm: the smaller of two p-values is doubled."""
    contrasts = [Contrast("grpo", "dapo", ""), Contrast("lambda", "dapo", "")]
    scores = {"dapo": BASE, "grpo": BASE + 0.006 + NOISE, "lambda": BASE + NOISE[::-1]}
    first, second = find_contrasts("stuck", contrasts, scores)
    assert first.p_holm == pytest.approx(2 * first.p_value)
    assert second.p_holm == pytest.approx(max(second.p_value, first.p_holm))


def test_questions_that_all_seeds_answered_are_resampled_too() -> None:
    """Few questions with large differences between them widen the interval beyond that over seeds."""
    questions = np.array([0.3, -0.3, 0.2, -0.1])
    before = np.full((60, 4), 0.5)
    after = before + questions + NOISE[:, None]
    contrast = [Contrast("grpo", "dapo", "")]
    (crossed,) = find_contrasts("ledger", contrast, {"dapo": before, "grpo": after})
    (seeds,) = find_contrasts("ledger", contrast, {"dapo": before.mean(1), "grpo": after.mean(1)})
    assert crossed.high - crossed.low > 5 * (seeds.high - seeds.low)


def test_the_smallest_effect_has_the_power_it_is_asked_for() -> None:
    assert power_over_seeds(smallest_effect(0.05, 16), 0.05, 16) == pytest.approx(0.8, abs=1e-4)
    assert count_seeds_for(0.01, 0.05) == 199  # (1.96 + 0.84)² · 25 = 196, and Student's t costs three more
    assert count_seeds_for(0.01, 0.0) == 2
    assert count_seeds_for(0.01, 2.0) is None
    assert "199 seeds" in describe_power("stuck", 0.05, 100)


def test_equal_tokens_compare_where_the_shortest_arm_ends() -> None:
    """Arm a samples 10 tokens a block and b 20; at 40 tokens, a is at its end and b between its first two blocks."""
    accuracy = np.array([[0.1, 0.2, 0.3, 0.4]])
    tokens = np.array([[10.0, 20.0, 30.0, 40.0]])
    budget, found = at_equal_tokens({"a": (accuracy, tokens), "b": (accuracy, 2 * tokens)})
    assert budget == 40
    assert found["a"][0] == pytest.approx(0.4)  # the middle of the last block, 35, is already behind
    assert found["b"][0] == pytest.approx(0.25)  # blocks' middles: 10, 30, 50, 70


def test_what_is_declared_can_run() -> None:
    names = {name for contrast in SIMULATE for name in contrast[:2]}
    assert names <= set(CORE)
    assert {*CORE, *EXTRA, *ADAM_ARMS} <= set(ARMS)
    assert len(set(SIMULATE)) == len(SIMULATE)
