"""Orders of methods: the rank correlations are SciPy's, and a regret is what a choice costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from benchmarks.lab.rankings import (
    Estimate,
    average,
    choose_largest,
    compare_orders,
    find_clear_pairs,
    find_regret,
    kendall,
    make_shares,
    resample,
    spearman,
)
from lambda_grpo_pl.evaluation.differences import compare_averages, holm


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_scipys(ties: bool) -> None:
    one, other = np.random.default_rng(0).standard_normal((2, 5, 10))
    if ties:
        one, other = one.round(), other.round()
    for i in range(5):
        assert kendall(one, other)[i] == pytest.approx(kendalltau(one[i], other[i]).statistic)
        assert spearman(one, other)[i] == pytest.approx(spearmanr(one[i], other[i]).statistic)


def test_an_order_without_differences_correlates_with_nothing() -> None:
    assert kendall(np.zeros(4), np.arange(4.0)) == 0
    assert spearman(np.zeros(4), np.arange(4.0)) == 0


def test_the_regret_of_a_choice() -> None:
    accuracy = np.array([0.5, 0.7, 0.6])
    assert find_regret(choose_largest(np.array([3.0, 1.0, 2.0])), accuracy) == pytest.approx(0.2)
    assert find_regret(choose_largest(accuracy), accuracy) == 0
    assert find_regret(np.full(3, 1 / 3), accuracy) == pytest.approx(0.1)


def test_pairs_are_clear_where_seeds_agree() -> None:
    noise = np.random.default_rng(0).standard_normal((50, 3))
    clear = find_clear_pairs(np.array([0.5, 0.5, 0.9]) + 0.05 * noise)
    assert clear.tolist() == [False, True, True]


def test_clear_pairs_are_those_of_the_packages_comparison() -> None:
    values = np.random.default_rng(1).standard_normal((20, 4)) + np.array([0.0, 0.4, 0.8, 1.2])
    p_values = [compare_averages([values[:, [j]]], [values[:, [i]]]).p_value for i in range(4) for j in range(i + 1, 4)]
    assert find_clear_pairs(values).tolist() == [each < 0.05 for each in holm(p_values)]
    assert not find_clear_pairs(np.repeat(values[:, :1], 4, axis=1)).any()


def test_an_order_is_compared_with_another_in_every_resample() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.4]) + 0.01 * np.random.default_rng(0).standard_normal((30, 4))
    shares = make_shares(30, 0)
    clear = np.array([True, False, True, True, False, True])
    same = compare_orders(resample(values, shares), resample(values, shares), clear)
    assert same["spearman"].as_json() == same["kendall"].as_json() == [1, 1, 1]
    assert same["right"].as_json() == [4, 4, 4]
    assert same["regret"].as_json() == [0, 0, 0]
    opposite = compare_orders(resample(-values, shares), resample(values, shares), clear)
    assert opposite["kendall"].value == -1
    assert opposite["right"].value == 0
    tied = compare_orders(
        resample(np.ones_like(values) * (1 + 1e-14 * values), shares), resample(values, shares), clear
    )
    assert tied["right"].as_json() == [2, 2, 2]
    assert tied["spearman"].value == 0
    assert opposite["regret"].value == pytest.approx(0.3, abs=0.02)


def test_an_average_of_estimates_has_a_smaller_interval() -> None:
    draws = np.random.default_rng(0).standard_normal((4, 4000))
    single, together = Estimate(0.0, draws[0]), average([Estimate(0.0, each) for each in draws])
    assert np.std(together.draws) == pytest.approx(np.std(single.draws) / 2, rel=0.1)


def test_resampled_means_spread_as_the_mean_does() -> None:
    values = np.random.default_rng(0).standard_normal((100, 2))
    found = resample(values, make_shares(100, 1))
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_allclose(found.draws.std(0), values.std(0) / 10, rtol=0.1)
