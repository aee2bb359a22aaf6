"""Properties of f and its λ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from lambda_grpo_pl.objective import (
    FAMILIES,
    LEARNABLE,
    GroupLengths,
    LengthPreference,
    PreferenceConfig,
    context_features,
    count_tokens,
    effective_sample_size,
    preference_objective,
)

from .golden import preference
from .strategies import MAX_LENGTH, Group, for_all, groups

LAMBDAS = st.floats(-5, 5)
MEAN_ONE = ("uniform", "delta_l", "power_softmax", "linear", "relative_power")


def build(family: str, lam: float = 0.0, **settings: object) -> LengthPreference:
    learnable = family in LEARNABLE
    learn = "surrogate" if learnable else "fixed"
    return preference(lam if learnable else 0.0, family=family, learn=learn, max_length=MAX_LENGTH, **settings)


def weigh(model: LengthPreference, lengths: Tensor, active: Tensor | None = None) -> Tensor:
    return model(lengths, count_tokens(lengths, active).mean_length, active)


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups())
def test_lambda_zero_is_uniform(family: str, group: Group) -> None:
    """λ = 0 is DAPO, to the last bit but one."""
    weights = weigh(build(family), group.lengths, group.active)
    torch.testing.assert_close(weights, group.active.double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("family", MEAN_ONE)
@for_all(group=groups(), lam=LAMBDAS)
def test_weights_have_mean_one_over_the_active_responses(family: str, group: Group, lam: float) -> None:
    weights = weigh(build(family, lam), group.lengths, group.active)
    torch.testing.assert_close(weights.sum(-1), group.active.sum(-1).double())
    assert (weights >= 0).all()
    assert (weights[~group.active] == 0).all()


@pytest.mark.parametrize("family", MEAN_ONE)
@for_all(length=st.integers(0, MAX_LENGTH), size=st.integers(1, 9), lam=LAMBDAS)
def test_equal_lengths_are_uniform(family: str, length: int, size: int, lam: float) -> None:
    weights = weigh(build(family, lam), torch.full((2, size), length))
    torch.testing.assert_close(weights, torch.ones(2, size, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@for_all(group=groups(), lam=LAMBDAS, seed=st.integers(0, 99))
def test_permutation_equivariance(family: str, group: Group, lam: float, seed: int) -> None:
    order = torch.randperm(group.lengths.shape[1], generator=torch.Generator().manual_seed(seed))
    model = build(family, lam)
    permuted = weigh(model, group.lengths[:, order], group.active[:, order])
    torch.testing.assert_close(permuted, weigh(model, group.lengths, group.active)[:, order])


@pytest.mark.parametrize("family", FAMILIES)
@for_all(group=groups(), lam=LAMBDAS)
def test_inactive_lengths_have_no_say(family: str, group: Group, lam: float) -> None:
    model = build(family, lam)
    changed = torch.where(group.active, group.lengths, 99_999)
    ours, theirs = weigh(model, group.lengths, group.active), weigh(model, changed, group.active)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups(min_size=2, all_active=True), lam=st.floats(0.01, 5), sign=st.sampled_from([-1, 1]))
def test_positive_lambda_prefers_long_responses(family: str, group: Group, lam: float, sign: int) -> None:
    weights = weigh(build(family, sign * lam), group.lengths)
    longer = group.lengths[:, :, None] > group.lengths[:, None, :]
    difference = (weights[:, :, None] - weights[:, None, :]) * sign
    assert (difference[longer] >= -1e-12).all()
    spread = group.lengths.double().std(-1, correction=0) > 1
    assert (weights.amax(-1)[spread] > 1 + 1e-9).all()


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups(), lam=st.floats(-4.9, 4.9))
def test_derivative_closed_form_equals_autograd(family: str, group: Group, lam: float) -> None:
    model = build(family, lam)
    count = count_tokens(group.lengths, group.active, "group")
    closed = model.derivative(group.lengths, count.mean_length, group.active)
    objective = preference_objective(model, group.surrogates, group.lengths, count, group.active)
    (slope,) = torch.autograd.grad(objective, model.lam)
    expected = (closed * group.surrogates / count.denominator).sum()
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups(), lam=st.floats(-4, 4))
def test_derivative_equals_finite_difference(family: str, group: Group, lam: float) -> None:
    step = 1e-5
    floored = FAMILIES[family].floored
    up, middle, down = (build(family, lam + shift) for shift in (step, 0.0, -step))
    if floored is not None and family == "linear":
        # The floor has a kink: a difference quotient across it is neither slope.
        masks = [floored_responses(model, group) for model in (up, down)]
        assume(torch.equal(*masks))
    arguments = (group.lengths, count_tokens(group.lengths, group.active).mean_length, group.active)
    quotient = (up(*arguments) - down(*arguments)).detach() / (2 * step)
    torch.testing.assert_close(middle.derivative(*arguments), quotient, rtol=1e-5, atol=1e-5)


def floored_responses(model: LengthPreference, group: Group) -> Tensor:
    assert model.family.floored is not None
    lengths = GroupLengths.of(group.lengths, torch.ones(()), group.active)
    return model.family.floored(lengths, model.lam.detach(), model.config)


def test_lambda_gradient_follows_the_length_advantage_correlation() -> None:
    """On-policy S = ℓ A: where long responses are better λ rises, where they are worse it falls."""
    lengths = torch.tensor([[100, 200, 300, 400]])
    advantages = torch.tensor([[-1.0, -0.5, 0.5, 1.0]], dtype=torch.float64)
    for family in LEARNABLE:
        for sign in (1, -1):
            model = build(family)
            preference_objective(model, sign * advantages * lengths, lengths, count_tokens(lengths)).backward()
            assert model.lam.grad is not None
            assert model.lam.grad * sign > 0


def test_linear_has_the_slope_of_power_softmax_at_zero_up_to_second_order() -> None:
    """`ln h = r z − (r z)²/2 + …`: with a small r the two families start alike."""
    lengths = torch.tensor([[100, 220, 300, 480]])
    mean_length = count_tokens(lengths).mean_length
    power, line = (build(family, r=1e-4).derivative(lengths, mean_length) for family in ("power_softmax", "linear"))
    torch.testing.assert_close(power, line, rtol=1e-3, atol=1e-7)


@for_all(group=groups(all_active=True))
def test_grpo_is_the_mean_of_per_response_means(group: Group) -> None:
    """Σ f S / Z = (1/N) Σ S/ℓ with one count, and the mean over prompts of it with a count per prompt."""
    lengths = group.lengths.clamp(min=1)
    for scope in ("global", "group"):
        count = count_tokens(lengths, scope=scope)
        total = preference_objective(build("grpo"), group.surrogates, lengths, count)
        torch.testing.assert_close(total, (group.surrogates / lengths).mean())


@for_all(group=groups(all_active=True))
def test_dr_grpo_divides_the_sum_by_a_constant(group: Group) -> None:
    lengths = group.lengths.clamp(min=1)
    total = preference_objective(build("dr_grpo"), group.surrogates, lengths, count_tokens(lengths))
    torch.testing.assert_close(total, group.surrogates.sum() / (lengths.numel() * MAX_LENGTH))


@for_all(group=groups(all_active=True))
def test_relative_power_contains_grpo_and_delta_l(group: Group) -> None:
    """λ = −1 is GRPO times the group's harmonic over its arithmetic mean length; λ = −α is ΔL."""
    lengths = group.lengths.clamp(min=1)
    mean_length = count_tokens(lengths, scope="group").mean_length
    harmonic = lengths.shape[1] / (1 / lengths.double()).sum(-1, keepdim=True)
    grpo = build("grpo")(lengths, mean_length) * harmonic / mean_length
    torch.testing.assert_close(build("relative_power", -1.0)(lengths, mean_length), grpo)
    delta_l = build("delta_l", alpha=0.75)(lengths, mean_length)
    torch.testing.assert_close(build("relative_power", -0.75)(lengths, mean_length), delta_l)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lam", [-5.0, -1.0, 0.0, 1.0, 5.0])
@pytest.mark.parametrize(
    "lengths",
    [[[7]], [[0]], [[5] * 4], [[0] * 4], [[1] * 4], [[1] + [200] * 15], [[3000] + [1] * 99], [[1] + [3000] * 99]],
    ids=["G1", "empty", "equal", "all-empty", "ones", "h<=0", "G100-long", "G100-h<=0"],
)
def test_nothing_is_nan(family: str, lam: float, lengths: list[list[int]]) -> None:
    """G = 1, σ = 0, ℓ ∈ {0, 1}, h ≤ 0 and λ at its bounds: f, df/dλ and λ's gradient stay finite, in float32 λ too."""
    model = build(family, lam, r=0.3).float()
    tensor = torch.tensor(lengths)
    for active in (torch.ones_like(tensor, dtype=torch.bool), torch.zeros_like(tensor, dtype=torch.bool)):
        count = count_tokens(tensor, active, "group")
        objective = preference_objective(model, torch.ones_like(tensor).double(), tensor, count, active)
        assert objective.isfinite()
        assert model.derivative(tensor, count.mean_length, active).isfinite().all()
        if family in LEARNABLE:
            (slope,) = torch.autograd.grad(objective, model.lam)
            assert slope.isfinite()


def test_a_response_below_the_floor_does_not_stop_lambda() -> None:
    """With h ≤ 0 at λ = −0.5, composer's floor of 1e-6 leaves λ no gradient at all, ours does."""
    lengths = torch.tensor([[1] + [200] * 15])
    model = build("power_softmax", -0.5, r=0.3)
    slope = model.derivative(lengths, count_tokens(lengths).mean_length)
    assert slope.abs().max() > 0.1


@pytest.mark.parametrize("family", LEARNABLE)
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "lambda"}, "power_softmax"),
        ({"learn": "online"}, "validation"),
        ({"family": "grpo"}, "set preference.learn to fixed"),
        ({"family": "dr_grpo", "learn": "fixed", "contextual": True}, "contextual to false"),
        ({"learn": "fixed", "contextual": True}, "learn to surrogate"),
        ({"r": 0.0}, "preference.r"),
        ({"bound": -1.0}, "preference.bound"),
        ({"init": 9.0}, "raise preference.bound"),
        ({"bound": 50.0}, "smaller bound"),
        ({"h_floor": 1.0}, "h_floor"),
        ({"min_ess": 1.5}, "min_ess"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_refusals_say_what_to_change(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**settings)


def test_dr_grpo_without_a_length_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set preference\.max_length"):
        weigh(LengthPreference(PreferenceConfig(family="dr_grpo", learn="fixed")), torch.ones(1, 2))


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
