"""Properties of every family's f and of df/dλ."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import (
    FAMILIES,
    LEARNABLE,
    FamilyConfig,
    GroupLengths,
    LengthPreference,
    count_tokens,
    preference_objective,
)

from .golden import alternating, build, weigh
from .strategies import MAX_LENGTH, Group, for_all, groups

LAMBDAS = st.floats(-5, 5)
SPREADS = st.sampled_from([1 / 9, 1.0])
"""r: the paper's, and one that lowers responses to the floor."""
MEAN_ONE = ("uniform", "delta_l", "power_softmax", "linear", "relative_power")


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups())
def test_lambda_zero_is_uniform(family: str, group: Group) -> None:
    """λ = 0 is DAPO, to the last bit but one."""
    weights = weigh(build(family), group.lengths, group.active)
    torch.testing.assert_close(weights, group.active.double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("family", MEAN_ONE)
@for_all(group=groups(), lam=LAMBDAS, r=SPREADS)
def test_weights_have_mean_one_over_the_active_responses(family: str, group: Group, lam: float, r: float) -> None:
    weights = weigh(build(family, lam, r=r), group.lengths, group.active)
    torch.testing.assert_close(weights.sum(-1), group.active.sum(-1).double())
    assert (weights >= 0).all()
    assert (weights[~group.active] == 0).all()


@pytest.mark.parametrize("family", MEAN_ONE)
@for_all(length=st.integers(0, MAX_LENGTH), size=st.integers(1, 9), lam=LAMBDAS)
def test_equal_lengths_are_uniform(family: str, length: int, size: int, lam: float) -> None:
    weights = weigh(build(family, lam), torch.full((2, size), length))
    torch.testing.assert_close(weights, torch.ones(2, size, dtype=torch.float64))


@pytest.mark.parametrize("family", ["grpo", "balanced", "batch_power"])
@for_all(length=st.integers(1, MAX_LENGTH), size=st.integers(1, 9), lam=LAMBDAS)
def test_equal_lengths_in_the_whole_update_are_uniform(family: str, length: int, size: int, lam: float) -> None:
    weights = weigh(build(family, lam), torch.full((2, size), length))
    torch.testing.assert_close(weights, torch.ones(2, size, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@for_all(group=groups(), lam=LAMBDAS, seed=st.integers(0, 99))
def test_permutation_equivariance(family: str, group: Group, lam: float, seed: int) -> None:
    order = torch.randperm(group.lengths.shape[1], generator=torch.Generator().manual_seed(seed))
    model = build(family, lam)
    advantages = alternating(group.lengths)[:, order]
    permuted = weigh(model, group.lengths[:, order], group.active[:, order], advantages)
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
    """Among all, or among those with the same sign of A."""
    weights = weigh(build(family, sign * lam), group.lengths, advantages=torch.ones_like(group.lengths))
    longer = group.lengths[:, :, None] > group.lengths[:, None, :]
    difference = (weights[:, :, None] - weights[:, None, :]) * sign
    assert (difference[longer] >= -1e-12).all()
    spread = group.lengths.double().std(-1, correction=0) > 1
    assert ((weights.amax(-1) - weights.amin(-1))[spread] > 1e-9).all()


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups(), lam=st.floats(-4.9, 4.9), r=SPREADS)
def test_derivative_closed_form_equals_autograd(family: str, group: Group, lam: float, r: float) -> None:
    model = build(family, lam, r=r)
    count = count_tokens(group.lengths, group.active, "group")
    advantages = alternating(group.lengths)
    closed = model.derivative(group.lengths, count.mean_length, group.active, advantages=advantages)
    objective = preference_objective(model, group.surrogates, group.lengths, count, group.active, advantages=advantages)
    (slope,) = torch.autograd.grad(objective, model.lam)
    terms = closed * group.surrogates / count.denominator
    largest = 1 + float(terms.abs().sum())  # the sum may cancel, and its rounding follows its terms
    torch.testing.assert_close(slope, terms.sum(), rtol=1e-10, atol=1e-10 * largest)


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
    mean_length = count_tokens(group.lengths, group.active).mean_length
    arguments = (group.lengths, mean_length, group.active, None, alternating(group.lengths))
    quotient = (up(*arguments) - down(*arguments)).detach() / (2 * step)
    torch.testing.assert_close(middle.derivative(*arguments), quotient, rtol=1e-5, atol=1e-5)


def test_linear_by_hand_with_a_response_at_the_floor() -> None:
    """Of z = (−1, −1, −1, 3)/√3 with λ r = −1, the last gives 1 − √3: raised to the floor, where the slope is 0."""
    lengths, z, floor = torch.tensor([[0, 0, 0, 4]]), 1 / 3**0.5, 0.25
    model = build("linear", -0.5, r=2.0, h_floor=floor)
    mean = (3 * (1 + z) + floor) / 4
    short, long = (1 + z) / mean, floor / mean
    weights = torch.tensor([[short, short, short, long]], dtype=torch.float64)
    torch.testing.assert_close(weigh(model, lengths), weights, rtol=1e-7, atol=0)
    slope = torch.tensor([[-2 * z, -2 * z, -2 * z, 0.0]], dtype=torch.float64)
    derivative = (slope - weights * slope.mean()) / mean
    torch.testing.assert_close(model.derivative(lengths, torch.ones(())), derivative, rtol=1e-7, atol=0)
    assert floored_responses(model, ungrouped(lengths)).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("family", ["power_softmax", "linear"])
def test_a_response_exactly_at_the_floor_was_not_raised(family: str) -> None:
    """It still has its slope, as autograd says."""
    lengths = torch.tensor([[100, 300]])
    z = GroupLengths.of(lengths, torch.ones(()), None).standardised()
    model = build(family, 1.0, r=0.5, h_floor=float(1 + 0.5 * z[0, 0]))
    assert not floored_responses(model, ungrouped(lengths)).any()
    (slope,) = torch.autograd.grad(weigh(model, lengths)[0, 0], model.lam)
    assert slope.item() == pytest.approx(model.derivative(lengths, torch.ones(()))[0, 0].item())


def ungrouped(lengths: Tensor) -> Group:
    """These lengths, all active, without rewards."""
    nothing = torch.zeros(lengths.shape, dtype=torch.float64)
    return Group(lengths, torch.ones_like(lengths, dtype=torch.bool), nothing, nothing)


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
            surrogates = sign * advantages * lengths
            preference_objective(
                model, surrogates, lengths, count_tokens(lengths), advantages=sign * advantages
            ).backward()
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


@for_all(group=groups(), seed=st.integers(0, 99))
def test_balanced_power_contains_grpo_and_balanced_aggregation(group: Group, seed: int) -> None:
    """λ = −1 is GRPO with a count per prompt at β = 0 and Balanced Aggregation at β = 1; tokens keep their total."""
    lengths, active = group.lengths.clamp(min=1), group.active
    signs = torch.randint(-1, 2, lengths.shape, generator=torch.Generator().manual_seed(seed)).double()
    mean_length = count_tokens(lengths, active, "group").mean_length
    for balance, family in ((0.0, "grpo"), (1.0, "balanced")):
        weights = build("balanced_power", -1.0, balance=balance)(lengths, mean_length, active, None, signs)
        torch.testing.assert_close(weights, build(family)(lengths, mean_length, active, None, signs))
    between = build("balanced_power", -1.7)(lengths, mean_length, active, None, signs)
    tokens = lengths * active
    torch.testing.assert_close((between * tokens).sum(-1), tokens.sum(-1).double())


def test_balanced_power_by_hand() -> None:
    """Base b = √(ℓ ℓ̄_s): lengths 4 and 16 of positive A (mean 10), 40 of negative A; f = b^λ Σ ℓ / Σ ℓ b^λ."""
    lengths, advantages = torch.tensor([[4, 16, 40]]), torch.tensor([[0.5, 0.5, -1.0]])
    b = torch.tensor([[40.0**0.5, 160.0**0.5, 40.0]], dtype=torch.float64)
    expected = b**-1 * 60 / (lengths / b).sum()
    torch.testing.assert_close(weigh(build("balanced_power", -1.0), lengths, None, advantages), expected)


@pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan")])
def test_a_balance_that_is_no_share_is_refused(balance: float) -> None:
    with pytest.raises(UserError, match=r"model\.preference\.balance"):
        FamilyConfig(balance=balance)


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
        ones = torch.ones_like(tensor).double()
        objective = preference_objective(model, ones, tensor, count, active, advantages=alternating(tensor))
        assert objective.isfinite()
        assert model.derivative(tensor, count.mean_length, active, None, alternating(tensor)).isfinite().all()
        if family in LEARNABLE:
            (slope,) = torch.autograd.grad(objective, model.lam)
            assert slope.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_float64_whatever_the_mean_length(family: str) -> None:
    assert weigh(build(family, 1.0), torch.tensor([[100, 300]])).dtype == torch.float64


def test_standardised_lengths_by_hand() -> None:
    """δ = 1e-8 tokens beside σ = 0.5; an inactive response has z = 0."""
    lengths, active = torch.tensor([[1, 2, 9]]), torch.tensor([[True, True, False]])
    z = GroupLengths.of(lengths, torch.ones(()), active).standardised()
    expected = 0.5 / (0.5 + 1e-8)
    torch.testing.assert_close(z, torch.tensor([[-expected, expected, 0.0]], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups(), lam=LAMBDAS)
def test_inactive_responses_have_no_derivative_and_are_never_floored(family: str, group: Group, lam: float) -> None:
    model = build(family, lam, r=0.3)
    mean_length = count_tokens(group.lengths, group.active).mean_length
    derivative = model.derivative(group.lengths, mean_length, group.active, None, alternating(group.lengths))
    assert not derivative[~group.active].any()
    if model.family.floored is not None:
        assert not floored_responses(model, group)[~group.active].any()


@pytest.mark.parametrize("family", ["power_softmax", "linear"])
@pytest.mark.parametrize(("lengths", "expected"), [([0, 1], -0.5 * 9), ([0, 2], -9), ([1, 3], -0.5 * 9), ([0, 0], 0)])
def test_grpo_lambda_by_hand(family: str, lengths: list[int], expected: float) -> None:
    """−CV/r, with a mean length of at least one token."""
    model = build(family)
    group = GroupLengths.of(torch.tensor([lengths]), torch.ones(()), None)
    assert model.family.grpo_lambda is not None
    assert model.family.grpo_lambda(group, model.config).item() == pytest.approx(expected)


def test_the_help_text_of_the_family_names_every_family() -> None:
    """The description users read in `--help` is written by hand, beside the table."""
    source = inspect.getsource(FamilyConfig)
    description = source[source.index("family: str") : source.index("r: float")]
    assert all(name in description for name in FAMILIES)


PATTERN = torch.tensor([[10, 30, 20, 60], [100, 100, 40, 0]])
SIGNS = torch.tensor([[1.0, -2.0, 0.5, -0.1], [1.0, -1.0, 0.0, -1.0]])


def test_balanced_aggregation_is_a_token_mean_of_each_sign() -> None:
    """Σ f S / Z = mean over prompts of Σ_s (n_s / n) · (Σ_s S / Σ_s ℓ), by hand for two groups.

    Group 1: positive 10 and 20 tokens, negative 30 and 60. Group 2: positive 100, negative 100 (one is inactive), zero
    40: a class of its own, which has no gradient without a KL term. Surrogates are 1, so a class gives n_s/n · n_s/L_s.
    """
    active = PATTERN > 0
    by_hand = ((2 / 4) * (2 / 30) + (2 / 4) * (2 / 90), (1 / 3) * (1 / 100) * 2 + (1 / 3) * (1 / 40))
    surrogates = active.double()
    for scope, expected in (("group", sum(by_hand) / 2), ("global", (4 * by_hand[0] + 3 * by_hand[1]) / 7)):
        count = count_tokens(PATTERN, active, scope)
        total = preference_objective(build("balanced"), surrogates, PATTERN, count, active, advantages=SIGNS)
        assert total.item() == pytest.approx(expected)


def test_balanced_aggregation_gives_both_signs_their_share_of_responses() -> None:
    """Σ f ℓ over the positive responses is to that over the negative ones as their numbers: no sign–length coupling."""
    weights = weigh(build("balanced"), PATTERN[:1], advantages=SIGNS[:1])
    masses = weights * PATTERN[:1]
    positive = SIGNS[:1] > 0
    assert masses[positive].sum().item() == pytest.approx(masses[~positive].sum().item())
    assert weights[0, 0] == weights[0, 2] > weights[0, 1] == weights[0, 3]
    with pytest.raises(ValueError, match="advantages"):
        build("balanced")(PATTERN, count_tokens(PATTERN).mean_length)


def test_balanced_aggregation_of_one_sign_is_the_token_mean() -> None:
    weights = weigh(build("balanced"), PATTERN, PATTERN > 0, torch.ones(2, 4))
    expected = count_tokens(PATTERN, PATTERN > 0).mean_length / torch.tensor([[30.0], [80.0]])
    torch.testing.assert_close(weights, expected * (PATTERN > 0).double())


def test_batch_power_by_hand() -> None:
    """λ = −1: f = N ℓ⁻¹ / Σ ℓ⁻¹ over all seven active responses, whatever their group."""
    active = PATTERN > 0
    inverse = active / PATTERN.clamp(min=1).double()
    expected = 7 * inverse / (1 / 10 + 1 / 30 + 1 / 20 + 1 / 60 + 2 / 100 + 1 / 40)
    weights = weigh(build("batch_power", -1.0), PATTERN, active)
    torch.testing.assert_close(weights, expected)
    assert weights.sum().item() == pytest.approx(7)


@for_all(group=groups(all_active=True))
def test_batch_power_at_minus_one_is_grpo_up_to_one_factor(group: Group) -> None:
    lengths = group.lengths.clamp(min=1)
    ratio = weigh(build("batch_power", -1.0), lengths) / weigh(build("grpo"), lengths)
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


@for_all(group=groups(), lam=LAMBDAS)
def test_batch_power_of_one_group_is_relative_power(group: Group, lam: float) -> None:
    lengths, active = group.lengths[:1], group.active[:1]
    one, other = (weigh(build(family, lam), lengths, active) for family in ("batch_power", "relative_power"))
    torch.testing.assert_close(one, other)


@for_all(group=groups(min_size=2, all_active=True), lam=st.floats(-4.9, 4.9))
def test_batch_power_over_two_ranks_is_that_of_one_process(group: Group, lam: float) -> None:
    """The update's groups twice, once per rank: `total` adds the parts, in f, in closed form and in λ's gradient."""
    lengths, surrogates, model = group.lengths, group.surrogates, build("batch_power", lam)
    both = torch.cat([lengths, lengths])
    whole, half = count_tokens(both), count_tokens(lengths, reduce=lambda sums: 2 * sums)
    torch.testing.assert_close(
        model(lengths, half.mean_length, total=half.total), model(both, whole.mean_length)[: len(lengths)]
    )
    closed = model.derivative(lengths, half.mean_length, total=half.total)
    torch.testing.assert_close(closed, model.derivative(both, whole.mean_length)[: len(lengths)])
    objectives = (
        preference_objective(model, torch.cat([surrogates, surrogates]), both, whole),
        preference_objective(model, surrogates, lengths, half),
    )
    expected, part = (torch.autograd.grad(objective, model.lam)[0] for objective in objectives)
    torch.testing.assert_close(2 * part, expected, rtol=1e-9, atol=1e-9)


def test_labels_differ() -> None:
    labels = [family.label for family in FAMILIES.values()]
    assert len(set(labels)) == len(labels)
