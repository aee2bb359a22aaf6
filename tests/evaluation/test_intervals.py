"""Estimators against closed forms, intervals against their nominal coverage, tests against scipy and enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lambda_grpo_pl.evaluation.differences import compare_averages, holm, mcnemar
from lambda_grpo_pl.evaluation.estimators import best_at_k, majority_vote, pass_at_k
from lambda_grpo_pl.evaluation.intervals import (
    _mid_distribution,
    average_interval,
    bca_interval,
    bootstrap_interval,
    wilson_interval,
)
from lambda_grpo_pl.evaluation.resampling import Estimate


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_the_closed_form(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    closed = 1 - math.comb(n - correct, k) / math.comb(n, k)
    assert pass_at_k(n, [correct], k)[0] == pytest.approx(closed, abs=1e-12)


def test_pass_at_k_survives_thousands_of_samples():
    assert pass_at_k(10_000, [0, 1, 10_000], 5_000).tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=7), st.data())
def test_best_at_k_is_the_mean_over_all_subsets(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    subsets = [max(subset) for subset in itertools.combinations(scores, k)]
    assert best_at_k([scores], k)[0] == pytest.approx(np.mean(subsets), abs=1e-9)


def test_best_at_k_of_right_and_wrong_is_pass_at_k():
    right = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert best_at_k(right, 3) == pytest.approx(pass_at_k(6, right.sum(1), 3))


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_samples_is_refused(k):
    with pytest.raises(ValueError, match="between 1 and the 4 samples"):
        pass_at_k(4, [1], k)
    with pytest.raises(ValueError, match="between 1 and the 4 samples"):
        best_at_k([[0, 1, 0, 1]], k)


@pytest.mark.parametrize(
    ("answers", "correct", "vote"),
    [
        ([0, 0, 1], [True, True, False], 1.0),
        ([1, 1, 0], [False, False, True], 0.0),
        ([0, 1], [True, False], 0.5),  # a tie is drawn, whichever came first
        ([1, 0], [False, True], 0.5),
        ([-1, -1, 0], [False, False, True], 1.0),  # no answer, no vote
        ([-1, -1], [False, False], 0.0),
    ],
)
def test_majority_vote(answers, correct, vote):
    assert majority_vote(answers, correct) == vote


@pytest.mark.parametrize(("wins", "n"), [(0, 30), (7, 100), (100, 100)])
def test_wilson_equals_scipy(wins, n):
    reference = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson_interval(wins, n)[1:] == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize("n", [100, 200, 500])
def test_coverage_of_an_accuracy_is_nominal(n):
    """Exact: the interval of each possible count, weighted by how likely that count is."""
    counts = np.arange(n + 1)
    intervals = [bootstrap_interval(np.arange(n) < count, num_resamples=4000, seed=int(count)) for count in counts]
    low, high = (np.array([getattr(interval, side) for interval in intervals]) for side in ("low", "high"))
    for accuracy in (0.1, 0.25, 0.3, 0.5, 0.65, 0.8, 0.9):
        covered = (low <= accuracy + 1e-9) & (accuracy - 1e-9 <= high)
        coverage = stats.binom.pmf(counts, n, accuracy) @ covered
        assert 0.93 <= coverage <= 0.97, (accuracy, coverage)


def test_coverage_with_several_samples_per_question():
    """Questions of unlike difficulty, eight samples each: the interval is over questions, not over samples."""
    random = np.random.default_rng(1)
    trials, covered = 1500, 0
    for trial in range(trials):
        difficulty = random.beta(0.6, 0.9, size=120)
        values = random.binomial(8, difficulty) / 8
        interval = bootstrap_interval(values, num_resamples=1000, seed=trial)
        covered += interval.low <= 0.6 / 1.5 <= interval.high
    assert 0.93 <= covered / trials <= 0.97


def test_bootstrap_of_a_skewed_score_equals_scipys_bca():
    values = np.random.default_rng(2).exponential(size=80)
    ours = bootstrap_interval(values, num_resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=3).confidence_interval
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_of_an_average_equals_scipys_bca_on_two_samples():
    random = np.random.default_rng(4)
    skewed, even = random.exponential(size=15), random.normal(size=100)
    ours = average_interval([skewed, even], num_resamples=60_000)
    theirs = stats.bootstrap(
        (skewed, even), mean_of_means, n_resamples=60_000, batch=10_000, method="BCa", rng=3, vectorized=True
    ).confidence_interval
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def mean_of_means(first, second, axis=-1):
    return (first.mean(axis) + second.mean(axis)) / 2


def test_bias_and_acceleration_are_efrons():
    """Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z))) of uniform resamples, a = Σ d³ / (6 (Σ d²)^1.5) (Efron 1987, eq. 2.3)."""
    values, draws = np.array([0, 0, 0, 1.0]), (np.arange(10_000) + 0.5) / 10_000
    distance = values - values.mean()
    acceleration = (distance**3).sum() / (6 * (distance**2).sum() ** 1.5)
    shifted = stats.norm.ppf(0.25) + stats.norm.ppf([0.05, 0.95])
    expected = stats.norm.cdf(stats.norm.ppf(0.25) + shifted / (1 - acceleration * shifted))
    found = bca_interval(Estimate.of_scores([values]), draws, 0.9)
    assert found == pytest.approx((0.25, *expected), abs=1e-6)


def test_half_of_a_tie_counts_as_below():
    points, levels = _mid_distribution(np.array([0.0, 2.0, 0.0, 1.0]))
    assert (points.tolist(), levels.tolist()) == ([0, 1, 2], [0.25, 0.625, 0.875])


def test_degenerate_scores_keep_an_honest_interval():
    assert bootstrap_interval(np.zeros(100)) == pytest.approx((0.0, 0.0, wilson_interval(0, 100).high))
    assert bootstrap_interval(np.ones(100)).low == pytest.approx(wilson_interval(100, 100).low)
    assert bootstrap_interval(np.full(5, 37.5)) == (37.5, 37.5, 37.5)
    assert bootstrap_interval([1.0]).low < 0.3


def test_interval_is_reproducible_and_narrows_with_questions():
    few, many = (np.arange(n) % 3 == 0 for n in (90, 900))
    assert bootstrap_interval(few) == bootstrap_interval(few)
    assert np.ptp(bootstrap_interval(many)[1:]) < np.ptp(bootstrap_interval(few)[1:]) / 2.5


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="no question"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([0.0, float("nan")])


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(lost, won):
    reference = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(reference, abs=1e-12)


def test_mcnemar_survives_thousands_of_questions():
    assert mcnemar(3000, 2900) == pytest.approx(stats.binomtest(3000, 5900).pvalue, rel=1e-9)


def test_p_value_is_uniform_when_nothing_differs():
    """Under equal accuracy at most about 5 % of comparisons fall below 0.05."""
    random = np.random.default_rng(3)
    p_values = []
    for trial in range(800):
        first, second = random.random((2, 150)) < 0.4
        p_values.append(compare_averages([first], [second], num_resamples=500, seed=trial).p_value)
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.07
    assert 0.42 <= np.mean(np.array(p_values) < 0.5) <= 0.58


def test_pairing_finds_what_separate_intervals_miss():
    """One run solves all the other solves and six questions more of 200."""
    first = np.arange(200) < 100
    second = np.arange(200) < 112
    assert bootstrap_interval(first).high > bootstrap_interval(second).low
    found = compare_averages([first], [second])
    assert found.difference.mean == pytest.approx(0.06)
    assert found.difference.low > 0
    assert found.p_value < 0.01
    assert found.p_mcnemar == pytest.approx(2 / 2**12)
    assert found.num_questions == 200
    assert compare_averages([second], [first]).difference.mean == pytest.approx(-0.06)


def test_equal_runs_do_not_differ():
    found = compare_averages([[0, 1, 1]], [[0, 1, 1]])
    assert found.difference == (0, 0, 0)
    assert (found.p_value, found.p_mcnemar) == (1.0, 1.0)


def test_graded_scores_have_no_mcnemar_and_unequal_sizes_no_pairing():
    assert compare_averages([[0.0, 0.5]], [[1.0, 0.25]]).p_mcnemar is None
    with pytest.raises(ValueError, match="cannot be paired"):
        compare_averages([[0.0]], [[1.0, 0.0]])


def test_an_average_weighs_benchmarks_and_not_questions():
    small, large = np.arange(30) < 15, np.arange(3000) < 300
    found = average_interval([small, large])
    assert found.mean == pytest.approx(0.3)
    spread = np.hypot(0.5 / 30**0.5, 0.3 / 3000**0.5) / 2
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.05)
    assert average_interval([small]) == bootstrap_interval(small)
    assert average_interval([np.zeros(30), np.zeros(50)]).high > 0.03


def test_averages_are_compared_on_the_same_questions():
    first = [np.arange(50) < 20, np.arange(200) < 100]
    second = [np.arange(50) < 26, np.arange(200) < 112]
    found = compare_averages(first, second)
    assert found.difference.mean == pytest.approx((0.12 + 0.06) / 2)
    assert found.difference.low > 0
    assert found.p_value < 0.01
    assert found.p_mcnemar is None
    assert found.num_questions == 250
    assert compare_averages(first, first).p_value == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
