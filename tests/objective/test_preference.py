"""λ itself: its floor on the effective sample size, its bound, its precision, its context."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import (
    FEATURES,
    LEARNABLE,
    CorrelationConfig,
    LengthPreference,
    PreferenceConfig,
    context_features,
    count_tokens,
    effective_sample_size,
    preference_objective,
)
from lambda_grpo_pl.objective.context import RunningMoments

from .golden import build, preference, weigh
from .strategies import Group, for_all, groups


def test_a_response_below_the_floor_does_not_stop_lambda() -> None:
    """With h ≤ 0 at λ = −0.5, composer's floor of 1e-6 leaves λ no gradient at all, ours does."""
    lengths = torch.tensor([[1] + [200] * 15])
    model = build("power_softmax", -0.5, r=0.3)
    slope = model.derivative(lengths, count_tokens(lengths).mean_length)
    assert slope.abs().max() > 0.1


@pytest.mark.parametrize("family", sorted(set(LEARNABLE) - {"batch_power"}))
@for_all(group=groups(), lam=st.sampled_from([-5.0, -2.0, 0.5, 3.0, 5.0]), floor=st.sampled_from([0.3, 0.6, 0.9]))
def test_min_ess_shrinks_lambda_just_enough(family: str, group: Group, lam: float, floor: float) -> None:
    """The effective sample size ends at the floor where it would be below, and f is untouched where it is above."""
    free = weigh(build(family, lam, r=0.3), group.lengths, group.active)
    guarded = weigh(build(family, lam, r=0.3, min_ess=floor), group.lengths, group.active)
    smallest = floor * group.active.sum(-1, keepdim=True).double()
    below = effective_sample_size(free) < smallest
    assert (effective_sample_size(guarded) >= smallest * (1 - 1e-9)).all()
    torch.testing.assert_close(guarded[~below.squeeze(-1)], free[~below.squeeze(-1)])
    torch.testing.assert_close(effective_sample_size(guarded)[below], smallest[below], rtol=1e-4, atol=1e-4)


def test_min_ess_keeps_lambda_alive_at_its_bound() -> None:
    """One response has all the weight at λ = −5; the guard restores a gradient, closed form = autograd."""
    lengths = torch.tensor([[1] + [200] * 15])
    count = count_tokens(lengths)
    model = build("power_softmax", -5.0, r=0.3, min_ess=0.25)
    surrogates = torch.arange(16.0).double()[None]
    (slope,) = torch.autograd.grad(preference_objective(model, surrogates, lengths, count), model.lam)
    closed = (model.derivative(lengths, count.mean_length) * surrogates).sum() / count.denominator
    assert slope.item() == pytest.approx(closed.item())
    assert slope.abs() > 1e-4


def test_the_objective_of_lambda_has_no_gradient_in_the_surrogates() -> None:
    """The policy has its own backward pass; this one must not run through it again."""
    lengths = torch.tensor([[100, 300]])
    surrogates = torch.ones(1, 2, requires_grad=True)
    model = build("power_softmax")
    preference_objective(model, surrogates, lengths, count_tokens(lengths)).backward()
    assert surrogates.grad is None
    assert model.lam.grad is not None


def test_lambda_is_projected_and_comes_back() -> None:
    """Past the bound f is that of the bound, its gradient is alive, and `clamp_` puts λ back and says so."""
    lengths = torch.tensor([[100, 200, 300, 400]])
    count = count_tokens(lengths)
    model = LengthPreference(PreferenceConfig(bound=2.0))
    model.lam.data.fill_(7.0)
    at_bound = LengthPreference(PreferenceConfig(bound=2.0, init=2.0))
    torch.testing.assert_close(weigh(model, lengths), weigh(at_bound, lengths))
    preference_objective(model, torch.tensor([[4.0, 3.0, 2.0, 1.0]]), lengths, count).backward()
    assert model.lam.grad is not None
    assert model.lam.grad < 0
    assert model.clamp_()
    assert model.lam.item() == 2.0
    model.lam.data.fill_(1.9)
    assert not model.clamp_()
    model.lam.data.fill_(-7.0)
    assert model.clamp_()
    assert model.lam.item() == -2.0
    assert not LengthPreference(PreferenceConfig(bound=2.0, init=2.0, learn="fixed")).at_bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    lengths = torch.tensor([[100, 220, 317, 480]])
    model = LengthPreference(PreferenceConfig(init=1.5))
    expected = weigh(model, lengths)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(weigh(model, lengths), expected)


def test_fixed_lambda_has_no_gradient_and_learning_ones_do() -> None:
    """A trainable parameter that never gets a gradient stops DDP."""
    assert not LengthPreference(PreferenceConfig(learn="fixed")).lam.requires_grad
    for learn in ("surrogate", "validation"):
        model = LengthPreference(PreferenceConfig(learn=learn, contextual=True))
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_correlation_rule_sets_lambda_before_f_is_taken() -> None:
    """Long responses are wrong: c = −1, λ = −1, and f is that of the fixed λ. Other rules do not look."""
    lengths, advantages = torch.tensor([[10, 20, 30]]), torch.tensor([[1.0, 0.0, -1.0]])
    model = LengthPreference(PreferenceConfig(family="batch_power", learn="correlation"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.observe(lengths, advantages)
    assert model.lam.item() == -1.0
    torch.testing.assert_close(weigh(model, lengths), weigh(build("batch_power", -1.0), lengths))
    for learn in ("fixed", "surrogate", "validation"):
        other = LengthPreference(PreferenceConfig(learn=learn, init=0.5))
        other.observe(lengths, advantages)
        assert other.lam.item() == 0.5


def test_the_correlation_is_in_the_state_and_only_under_its_rule() -> None:
    model = LengthPreference(PreferenceConfig(family="batch_power", learn="correlation"))
    assert set(model.state_dict()) == {"lam", "correlation.weighted_sum", "correlation.weight"}
    assert set(LengthPreference(PreferenceConfig()).state_dict()) == {"lam"}


def test_a_lambda_that_is_set_keeps_to_the_bound() -> None:
    model = LengthPreference(PreferenceConfig(learn="fixed", bound=2.0))
    model.set_(-3.5)
    assert model.lam.item() == -2.0
    model.set_(torch.tensor(0.25, dtype=torch.float64))
    assert model.lam.item() == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "lambda"}, r"model\.preference\.family is 'lambda'.*power_softmax"),
        ({"learn": "online"}, r"model\.preference\.learn.*validation"),
        ({"family": "grpo"}, r"set model\.preference\.learn to fixed"),
        ({"family": "dr_grpo", "learn": "fixed", "contextual": True}, "contextual to false"),
        ({"family": "uniform", "learn": "fixed", "min_ess": 0.5}, "min_ess to null"),
        ({"learn": "fixed", "contextual": True}, "learn to surrogate"),
        ({"learn": "correlation", "contextual": True}, "learn is correlation: set learn to surrogate"),
        ({"family": "grpo", "learn": "correlation"}, r"has no λ: set model\.preference\.learn to fixed"),
        ({"learn": "correlation", "init": 0.5}, r"model\.preference\.init is 0\.5.*sets λ at every update"),
        ({"learn": "correlation", "bound": 0.9}, r"from -1\.0 to 0\.0, outside ±0\.9: raise model\.preference\.bound"),
        ({"learn": "correlation", "correlation": CorrelationConfig(high=6.0)}, "from -1.0 to 6.0, outside"),
        ({"learn": "placebo"}, r"placebo to the metrics\.csv of a run"),
        ({"placebo": "metrics.csv"}, r"learn is surrogate and model\.preference\.placebo metrics\.csv"),
        ({"family": "batch_power", "min_ess": 0.5}, r"min_ess shrinks λ group by group.*relative_power"),
        ({"bound": 51.0, "h_floor": 0.9}, "above 0, 50 at most"),
        ({"r": 0.0}, r"model\.preference\.r is 0"),
        ({"r": math.inf}, r"model\.preference\.r is inf"),
        ({"lr": 0.0}, r"model\.preference\.lr is 0"),
        ({"lr": math.inf}, r"model\.preference\.lr is inf"),
        ({"bound": math.inf}, r"model\.preference\.bound is inf"),
        ({"bound": -1.0}, r"model\.preference\.bound is -1"),
        ({"bound": 0.0}, r"model\.preference\.bound is 0"),
        ({"alpha": math.nan}, r"model\.preference\.alpha is nan"),
        ({"init": 9.0}, r"raise model\.preference\.bound"),
        ({"init": -9.0}, r"raise model\.preference\.bound"),
        ({"bound": 17.5}, "lower the bound"),
        ({"h_floor": 1.0}, r"model\.preference\.h_floor"),
        ({"h_floor": 0.0}, r"model\.preference\.h_floor"),
        ({"min_ess": 1.0}, r"model\.preference\.min_ess"),
        ({"min_ess": 0.0}, r"model\.preference\.min_ess"),
        ({"max_length": 0}, r"model\.preference\.max_length"),
    ],
)
def test_refusals_say_what_to_change(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PreferenceConfig(**settings)


def test_defaults() -> None:
    """λ-GRPO as published, with a third party's learning rate."""
    config = PreferenceConfig()
    assert (config.family, config.r, config.h_floor) == ("power_softmax", 1 / 9, 0.01)
    assert (config.alpha, config.max_length) == (0.75, None)
    assert (config.learn, config.contextual, config.init) == ("surrogate", False, 0.0)
    assert (config.bound, config.min_ess, config.lr) == (5.0, None, 0.1)


def test_lambda_is_a_float32_scalar_also_from_an_integer() -> None:
    model = LengthPreference(PreferenceConfig(init=1, contextual=True))
    assert model.lam.dtype == model.w.dtype == torch.float32
    assert (model.lam.item(), model.w.tolist()) == (1.0, [0.0] * 4)
    assert model.effective_lambda(torch.ones(2, 4)).dtype == torch.float64
    assert LengthPreference(PreferenceConfig()).effective_lambda().dtype == torch.float64


def test_effective_sample_size_by_hand() -> None:
    """It does not depend on the scale of f, and a group without an active response has none."""
    weights = torch.tensor([[0.1, 0.1, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(effective_sample_size(weights), torch.tensor([[2.0], [1.6], [0.0]]))


def test_the_derivative_is_a_number_and_zero_without_a_lambda() -> None:
    lengths = torch.tensor([[100, 200, 300]])
    mean_length = count_tokens(lengths).mean_length
    assert not build("power_softmax").derivative(lengths, mean_length).requires_grad
    assert build("grpo").derivative(lengths, mean_length).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"bound": 17.0, "init": 17.0},
        {"bound": 80 / -math.log(0.01)},
        {"init": -5.0},
        {"h_floor": 0.99},
        {"min_ess": 0.99},
        {"max_length": 1},
        {"learn": "validation", "contextual": True, "min_ess": 0.01},
        {"family": "delta_l", "learn": "fixed", "alpha": 0.0},
    ],
)
def test_the_edges_of_what_is_allowed(settings: dict) -> None:
    assert LengthPreference(PreferenceConfig(**settings)).lam.item() == settings.get("init", 0.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "lambda"),
        ({"learn": "validation"}, "lambda_validation"),
        ({"contextual": True}, "lambda_contextual"),
        ({"contextual": True, "learn": "validation"}, "lambda_contextual_validation"),
        ({"learn": "fixed", "init": 1.0}, "lambda_fixed"),
        ({"family": "batch_power", "learn": "correlation"}, "batch_power_correlation"),
        ({"learn": "placebo", "placebo": "metrics.csv"}, "lambda_placebo"),
        ({"family": "balanced", "learn": "fixed"}, "balanced"),
        ({"family": "linear"}, "linear"),
        ({"family": "relative_power", "learn": "validation"}, "relative_power_validation"),
        ({"family": "uniform", "learn": "fixed"}, "dapo"),
        ({"family": "grpo", "learn": "fixed"}, "grpo"),
        ({"family": "dr_grpo", "learn": "fixed", "max_length": 8}, "dr_grpo"),
        ({"family": "delta_l", "learn": "fixed"}, "delta_l"),
    ],
)
def test_a_method_is_named_by_its_family_and_how_its_lambda_learns(settings: dict, name: str) -> None:
    assert LengthPreference(PreferenceConfig(**settings)).method_name == name


def test_dr_grpo_without_a_length_limit_is_refused() -> None:
    with pytest.raises(UserError, match=r"set model\.preference\.max_length"):
        LengthPreference(PreferenceConfig(family="dr_grpo", learn="fixed"))


def contextual(w: list[float]) -> tuple[LengthPreference, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(10, 900, (6, 5), generator=generator)
    rewards = torch.rand(6, 5, generator=generator)
    features = context_features(rewards, lengths, torch.randint(5, 90, (6,), generator=generator))
    model = LengthPreference(PreferenceConfig(contextual=True, init=0.2)).double()
    model.w.data.copy_(torch.tensor(w))
    return model, lengths, features


def test_contextual_is_the_scalar_until_features_have_varied() -> None:
    model, lengths, features = contextual([1.0, 1.0, 1.0, 1.0])
    mean_length = count_tokens(lengths).mean_length
    torch.testing.assert_close(model(lengths, mean_length, None, features), weigh(preference(0.2), lengths))
    model.update_moments(features)
    assert not torch.allclose(model(lengths, mean_length, None, features), weigh(preference(0.2), lengths))


def test_contextual_gradient_reaches_w_exactly() -> None:
    """dJ/dw = Σ_b φ_b dJ_b/dλ_b, and Σ of the closed derivatives for λ."""
    model, lengths, features = contextual([0.3, -0.2, 0.1, 0.4])
    model.update_moments(features)
    count = count_tokens(lengths)
    surrogates = torch.randn(6, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    objective = preference_objective(model, surrogates, lengths, count, None, features)
    slope_lam, slope_w = torch.autograd.grad(objective, [model.lam, model.w])
    derivative = model.derivative(lengths, count.mean_length, None, features)
    per_prompt = (derivative * surrogates).sum(-1) / count.denominator
    torch.testing.assert_close(slope_lam, per_prompt.sum())
    torch.testing.assert_close(slope_w, model.moments.standardise(features).T @ per_prompt)


def test_contextual_without_features_is_refused() -> None:
    model, lengths, _ = contextual([0.0] * 4)
    with pytest.raises(ValueError, match="context_features"):
        weigh(model, lengths)


def test_running_moments_match_the_data_on_any_number_of_ranks() -> None:
    """Two ranks with 3 prompts each hold what one process with 6 does: at first the plain mean and std."""
    model, _, features = contextual([0.0] * 4)
    model.update_moments(features)
    standard = model.moments.standardise(features)
    expected = (features - features.mean(0)) / features.std(0, correction=0)
    torch.testing.assert_close(standard, expected, rtol=1e-5, atol=1e-5)
    halves = features.split(3)
    sums: list[Tensor] = []
    for half in halves:
        contextual([0.0] * 4)[0].update_moments(half, lambda vector: sums.append(vector) or vector)
    rank, _, _ = contextual([0.0] * 4)
    rank.update_moments(halves[0], lambda _: sums[0] + sums[1])
    for name, buffer in model.moments.named_buffers():
        torch.testing.assert_close(rank.state_dict()[f"moments.{name}"], buffer)


def test_prompts_without_an_active_response_leave_the_moments_alone() -> None:
    """Nothing of such a prompt is known; an update of none of the others changes nothing either."""
    model, lengths, features = contextual([0.0] * 4)
    expected, _, _ = contextual([0.0] * 4)
    active = torch.ones_like(lengths, dtype=torch.bool)
    active[4:] = False
    active[1, 2] = False
    model.update_moments(features, active=active)
    expected.update_moments(features[:4])
    model.update_moments(features, active=torch.zeros_like(active))
    for ours, theirs in zip(model.moments.buffers(), expected.moments.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs * (0.99 if ours.dim() == 0 else 1))


def test_a_second_update_pools_the_moments_with_the_first_slightly_forgotten() -> None:
    """Weights 0.99 · 6 for the first six prompts and 6 for the others: mean and population variance of the mixture."""
    model, _, first = contextual([0.0] * 4)
    second = 2 * first.flip(0) + 1
    model.update_moments(first)
    model.update_moments(second)
    weights = torch.tensor([0.99] * 6 + [1.0] * 6, dtype=torch.float64)[:, None]
    values = torch.cat([first, second])
    mean = (weights * values).sum(0) / weights.sum()
    variance = (weights * (values - mean).square()).sum(0) / weights.sum()
    torch.testing.assert_close(model.moments.mean, mean)
    torch.testing.assert_close(model.moments.variance, variance)
    torch.testing.assert_close(model.moments.count, weights.sum())


def test_features_are_limited_to_three_standard_deviations_and_constant_ones_are_zero() -> None:
    model, _, features = contextual([0.0] * 4)
    features[:, 0] = 0.5
    model.update_moments(features)
    far = features + torch.tensor([1.0, 1e6, -1e6, 0.0])
    standard = model.moments.standardise(far)
    assert not standard[:, 0].any()
    assert (standard[:, 1] == 3).all()
    assert (standard[:, 2] == -3).all()
    assert standard[:, 3].abs().max() < 3


def test_context_features_by_hand() -> None:
    """Mean reward, population std over mean of the lengths, log of the mean length, prompt length."""
    rewards, lengths = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[10, 30, 500]])
    active = torch.tensor([[True, True, False]])
    (row,) = context_features(rewards, lengths, torch.tensor([7]), active).tolist()
    expected = {"mean_reward": 0.5, "length_cv": 0.5, "log_mean_length": math.log(20), "prompt_length": 7.0}
    assert list(FEATURES) == list(expected)
    assert row == pytest.approx(list(expected.values()))
    (empty,) = context_features(rewards, lengths, torch.tensor([7]), torch.zeros_like(active)).tolist()
    assert empty == [0.0, 0.0, 0.0, 7.0]
    (short,) = context_features(rewards[:, :2], torch.tensor([[0, 2]]), torch.tensor([7])).tolist()
    assert short == [0.5, 1.0, 0.0, 7.0]


def test_context_features_are_float64_whatever_the_rewards() -> None:
    features = context_features(torch.full((1, 7), 0.1), torch.ones(1, 7, dtype=torch.int64), torch.tensor([7]))
    assert features[0, 0].item() == torch.tensor(0.1).item(), "a sum in float32 rounds"


def test_moments_of_float32_features_are_taken_in_float64() -> None:
    """E[x²] − E[x]² of numbers around 10,000 that differ by 1 is lost in float32."""
    moments = RunningMoments(1)
    features = torch.tensor([[10_000.0], [10_001.0], [10_002.0]])
    moments.update(features, torch.ones(3, dtype=torch.bool), lambda sums: sums)
    assert moments.variance.item() == pytest.approx(2 / 3, rel=1e-4)
    standard = moments.standardise(features)
    assert standard.dtype == torch.float64
    torch.testing.assert_close(standard[:, 0], torch.tensor([-1.0, 0.0, 1.0]).double() * 1.5**0.5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
def test_moments_of_no_prompt_and_of_a_single_one(rows: int) -> None:
    """From nothing seen: no prompt leaves them at 0, one is the mean and has no variance."""
    moments, features = RunningMoments(2), torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    assert not any(buffer.any() for buffer in moments.buffers())
    moments.update(features[:rows], torch.ones(rows, dtype=torch.bool), lambda sums: sums)
    assert moments.count.item() == rows
    torch.testing.assert_close(moments.mean, rows * features[0].float())
    assert not moments.standardise(features).any()


@pytest.mark.parametrize("rows", [3, 5, 6, 7, 9])
def test_the_variance_of_a_constant_feature_is_never_negative(rows: int) -> None:
    values = torch.linspace(0.1, 9.9, 99, dtype=torch.float64)
    moments = RunningMoments(99).double()
    moments.update(values.expand(rows, 99), torch.ones(rows, dtype=torch.bool), lambda sums: sums)
    assert (moments.variance >= 0).all()


def test_a_feature_counts_as_varying_above_a_millionth() -> None:
    moments = RunningMoments(3).double()
    moments.variance.copy_(torch.tensor([0.6e-6, 1e-6, 1.2e-6], dtype=torch.float64).square())
    assert (moments.standardise(torch.full((1, 3), 1e-6)) != 0).tolist() == [[False, False, True]]
