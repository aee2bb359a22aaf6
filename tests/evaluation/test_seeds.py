"""Seeds and questions are both resampled: errors are as rare as promised, and real effects are found as often."""

import numpy as np
import pytest
from scipy import stats

from lambda_grpo_pl.evaluation.differences import compare_averages, equivalence_p
from lambda_grpo_pl.evaluation.intervals import average_interval, bootstrap_interval
from lambda_grpo_pl.evaluation.resampling import Estimate
from lambda_grpo_pl.evaluation.seeds import compare_seeds, power_over_seeds, seeds_needed
from lambda_grpo_pl.evaluation.student import StandardError, student_quantile, two_sided_p, upper_tail

NUM_QUESTIONS = 40


def simulate(random, num_seeds, seed_sd=0.2, second_num_seeds=None, second_seed_sd=None):
    """Two methods [S, Q] whose difference varies over seeds, over questions, and from one answer to the next."""
    questions, shifts = random.normal(size=NUM_QUESTIONS), random.normal(0, 0.3, NUM_QUESTIONS)

    def answers(num_seeds, seed_sd):
        return random.normal(0, seed_sd, (num_seeds, 1)) + random.normal(0, 0.5, (num_seeds, NUM_QUESTIONS))

    second = answers(second_num_seeds or num_seeds, seed_sd if second_seed_sd is None else second_seed_sd)
    return [answers(num_seeds, seed_sd) + questions], [second + questions + shifts]


def false_positives(paired, *settings, trials=2000):
    """Share of experiments without a difference whose interval at 95 % excludes 0."""
    random = np.random.default_rng(0)
    estimates = (Estimate.of_difference(*simulate(random, *settings), paired_seeds=paired) for _ in range(trials))
    return np.mean([abs(each.mean) > each.standard_error().half_width(0.95) for each in estimates])


def experiments(num_seeds, paired, seed):
    random = np.random.default_rng(seed)
    return [
        compare_averages(*simulate(random, num_seeds), paired_seeds=paired, num_resamples=400, seed=number)
        for number in range(200)
    ]


AT_MOST = 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5  # a rate of 5 % over 2000 experiments, and three standard errors


@pytest.mark.parametrize("seed_sd", [0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize(("num_seeds", "paired"), [(2, True), (2, False), (5, True), (5, False)])
def test_at_most_one_of_twenty_equal_methods_differs(num_seeds, paired, seed_sd):
    assert false_positives(paired, num_seeds, seed_sd) <= AT_MOST


@pytest.mark.parametrize(("sizes", "sds"), [((2, 2), (0, 0.5)), ((3, 3), (0.5, 0)), ((2, 5), (0.5, 0.2))])
def test_methods_of_unlike_seed_variance_are_not_found_to_differ(sizes, sds):
    """Welch's t finds 5.5 to 10 %."""
    assert false_positives(False, sizes[0], sds[0], sizes[1], sds[1]) <= AT_MOST


def test_caution_over_seeds_is_no_more_than_a_paired_t_test_where_seeds_dominate():
    assert false_positives(True, 5, 5.0) == pytest.approx(0.05, abs=AT_MOST - 0.05)


@pytest.mark.parametrize(("num_seeds", "paired"), [(2, True), (2, False), (3, True), (5, True), (5, False)])
def test_intervals_cover_and_false_positives_are_rare_under_seed_variance(num_seeds, paired):
    """The whole comparison, bootstrap included. At 5 %, 200 experiments have a standard error of 1.5 %."""
    found = experiments(num_seeds, paired, seed=1)
    assert np.mean([each.difference.low <= 0 <= each.difference.high for each in found]) >= 0.95 - 2 * 0.0154
    assert np.mean([each.p_value < 0.05 for each in found]) <= 0.05


def test_a_p_value_is_the_level_at_which_the_interval_excludes_the_null_hypothesis():
    error = StandardError([(1.0, 1), (2.0, 3), (0.5, 40)], [(3.0, 40)])
    for distance in (1e-3, 0.5, 4.0, 30.0, 1e6):
        assert error.half_width(1 - error.two_sided_p(distance)) == pytest.approx(distance, rel=1e-3)
        assert error.upper_tail(-distance) == pytest.approx(1 - error.upper_tail(distance))
    quantiles = stats.t.isf(0.025, [1, 3, 40])
    assert error.half_width(0.95) == pytest.approx(np.sqrt(quantiles**2 @ [1.0, 2.0, 0.5]))
    assert error.value == pytest.approx(3.5**0.5)
    assert StandardError([(4.0, 7)]).two_sided_p(3.0) == pytest.approx(2 * stats.t.sf(1.5, 7))
    assert StandardError([(0.0, 7)]).two_sided_p(0.0) == 1
    assert StandardError([(0.0, 7)]).two_sided_p(0.1) == 0


def test_an_interval_over_seeds_is_as_wide_as_its_standard_error_says():
    first, second = simulate(np.random.default_rng(0), 3)
    for confidence in (0.8, 0.95):
        found = compare_averages(first, second, confidence)
        width = found.difference.high - found.difference.low
        assert width == pytest.approx(2 * found.error.half_width(confidence))
        assert found.difference.low < found.difference.mean < found.difference.high


def test_nothing_is_surer_than_questions_and_residual_alone():
    """Averages of seeds that agree by chance are no evidence that seeds do not matter."""
    table = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 1.0]])
    for values in (table[:, :4], table):
        error = Estimate.of_scores([values]).standard_error()
        residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        variance = (residual**2).sum() / (values.shape[1] - 1) / values.size
        assert error.value**2 >= variance * (1 - 1e-9)
        assert error.half_width(0.95) >= stats.t.isf(0.025, values.shape[1] - 1) * variance**0.5 * (1 - 1e-9)


def test_averaging_seeds_question_by_question_takes_seed_variance_for_an_effect():
    """What the test above protects from."""
    random = np.random.default_rng(2)
    naive = [
        compare_averages(*([table[0].mean(0)] for table in simulate(random, 3)), num_resamples=400) for _ in range(200)
    ]
    assert np.mean([each.p_value < 0.05 for each in naive]) > 0.25


def test_standard_error_is_that_of_repeated_experiments():
    for paired in (True, False):
        found = experiments(4, paired, seed=3)
        spread = np.std([each.difference.mean for each in found])
        assert np.sqrt(np.mean([each.error.value**2 for each in found])) == pytest.approx(spread, rel=0.15)


def test_one_seed_is_the_comparison_of_questions_alone():
    first, second = np.arange(50) < 20, np.arange(50) < 26
    assert compare_averages([first], [second]) == compare_averages([first[None]], [second[None]])
    assert bootstrap_interval(first) == bootstrap_interval(first[None])
    found = compare_averages([first], [second])
    assert (found.difference.mean, found.p_mcnemar) == (pytest.approx(0.12), pytest.approx(2 / 2**6))
    assert found.error.parts == [(pytest.approx(np.var(second ^ first, ddof=1) / 50), 49)]


def test_identical_methods_do_not_differ():
    table = np.random.default_rng(0).random((3, 30)) < 0.5
    for paired in (True, False):
        found = compare_averages([table], [table], paired_seeds=paired)
        assert found.difference.mean == pytest.approx(0)
        assert found.p_value == pytest.approx(1)
        assert found.difference.low <= 0 <= found.difference.high


def test_pairs_of_seeds_that_move_together_are_seen():
    """Each seed shifts both methods alike, so paired differences are small and unpaired ones are not."""
    random = np.random.default_rng(5)
    shared = random.normal(0, 1, (5, 1)) + random.normal(0, 1, 60)
    first, second = shared + random.normal(0, 0.1, (2, 5, 60)) + np.array([0, 0.2])[:, None, None]
    assert compare_averages([first], [second]).p_value < 0.01
    assert compare_averages([first], [second], paired_seeds=False).p_value > 0.5


def test_a_seed_is_drawn_for_all_benchmarks_at_once():
    """A seed that is good on both benchmarks is no evidence of two."""
    seeds = np.array([-0.2, 0.0, 0.2])[:, None]
    one, other = 5 + seeds + np.random.default_rng(1).normal(0, 0.3, (2, 3, 50))
    both = average_interval([one, other])
    assert both.high - both.low > 0.8 * np.ptp(average_interval([one])[1:])


def test_scores_of_several_seeds_stay_shares():
    table = np.random.default_rng(0).random((2, 20)) < np.array([[0.99], [0.6]])
    assert average_interval([table])[1:] == (0, 1), "two seeds that differ this much say nothing"


@pytest.mark.parametrize("factor", [2, -1])
def test_scores_that_are_no_shares_keep_the_bounds_their_standard_error_says(factor):
    """Points of a benchmark that grades from 0 to 2, or penalties: only what lies within [0, 1] is held there."""
    table = factor * (np.random.default_rng(0).random((2, 20)) < np.array([[0.99], [0.6]]))
    found = average_interval([table])
    width = 2 * Estimate.of_scores([table]).standard_error().half_width(0.95)
    assert found.high - found.low == pytest.approx(width)
    assert found.low < table.min() < table.max() < found.high


def test_seeds_that_swap_their_answers_have_an_interval():
    """No question and no seed moves the estimate, so there is no acceleration to divide by."""
    found = bootstrap_interval([[0, 1], [1, 0]])
    assert found.mean == 0.5
    assert (found.low, found.high) == (0, 1)


def test_unequal_numbers_of_seeds_are_compared():
    random = np.random.default_rng(7)
    first, second = random.normal(0, 1, (3, 40)), random.normal(1, 1, (1, 40))
    assert compare_averages([first], [second]).difference.mean == pytest.approx(second.mean() - first.mean())


@pytest.mark.parametrize("freedom", [1, 2, 4.5, 30, 9e5, 1e7])
@pytest.mark.parametrize("value", [-3.0, 0.0, 0.3, 1.96, 20.0])
def test_student_equals_scipy(value, freedom):
    assert upper_tail(value, freedom) == pytest.approx(stats.t.sf(value, freedom), rel=1e-4)
    assert two_sided_p(value, freedom) == pytest.approx(2 * stats.t.sf(abs(value), freedom), rel=1e-4)
    for probability in (0.025, 0.5, 0.9):
        assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-5)


def test_paired_test_over_seeds_equals_scipy():
    first, second = [0.41, 0.43, 0.38, 0.44], [0.45, 0.44, 0.41, 0.49]
    interval, p_value = compare_seeds(first, second)
    reference = stats.ttest_rel(second, first)
    assert p_value == pytest.approx(reference.pvalue)
    assert interval[1:] == pytest.approx(tuple(reference.confidence_interval()))
    assert compare_seeds([0.1, 0.2], [0.1, 0.2])[1] == 1
    assert compare_seeds([0.25, 0.5], [0.5, 0.75])[1] == 0
    for wrong in ([0.1], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="at least two seeds"):
            compare_seeds(wrong, wrong[:1])


@pytest.mark.parametrize(("effect", "num_seeds"), [(0.5, 2), (1.0, 3), (-1.0, 10), (0.0, 5), (0.1, 400)])
def test_power_equals_the_noncentral_t(effect, num_seeds):
    critical, shift = stats.t.ppf(0.975, num_seeds - 1), effect * num_seeds**0.5
    reference = stats.nct.sf(critical, num_seeds - 1, shift) + stats.nct.cdf(-critical, num_seeds - 1, shift)
    assert power_over_seeds(2 * effect, 2.0, num_seeds) == pytest.approx(reference, abs=1e-6)


def test_a_planted_effect_is_found_at_the_printed_power():
    effect, sd = 0.03, 0.02
    num_seeds = seeds_needed(effect, sd)
    assert power_over_seeds(effect, sd, num_seeds - 1) < 0.8 <= power_over_seeds(effect, sd, num_seeds)
    differences = np.random.default_rng(0).normal(effect, sd, (1000, num_seeds))
    found = [compare_seeds(np.zeros(num_seeds), each)[1] < 0.05 for each in differences]
    assert np.mean(found) == pytest.approx(power_over_seeds(effect, sd, num_seeds), abs=0.035)


def test_two_seeds_are_the_fewest_that_a_plan_names():
    assert seeds_needed(1.0, 1e-3) == 2


def test_hopeless_plans_are_refused():
    with pytest.raises(ValueError, match="More than 100000 seeds"):
        seeds_needed(1e-6, 1.0)
    for sd, num_seeds in ((0.0, 3), (1.0, 1)):
        with pytest.raises(ValueError, match="at least two seeds and a positive"):
            power_over_seeds(1.0, sd, num_seeds)


def test_equivalence_is_two_one_sided_tests():
    first, second = np.random.default_rng(0).normal(0, 1, (2, 80))
    found = compare_averages([first], [second])
    sides = [
        stats.ttest_1samp(second - first, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(second - first, 0.5, alternative="less").pvalue,
    ]
    assert equivalence_p(found, 0.5) == pytest.approx(max(sides))
    same = compare_averages([np.ones(200)], [np.ones(200)])
    assert equivalence_p(same, 0.02) == pytest.approx(0.98**200)
    assert equivalence_p(compare_averages([np.zeros(9)], [np.ones(9)]), 0.5) == 1
    with pytest.raises(ValueError, match="must be above 0"):
        equivalence_p(found, 0)
