"""The lens: each quantity by hand, against the weights that a run would train with, and against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import (
    FAMILIES,
    LensConfig,
    SurrogateConfig,
    TokenLogprobs,
    count_tokens,
    lens_sums,
    lens_values,
    lens_weights,
    policy_loss,
)
from lambda_grpo_pl.objective.lens import METHODS, SUMS, find_method

from .golden import preference
from .strategies import Group, for_all, groups

LENGTHS = torch.tensor([[10, 20, 30], [4, 4, 8]])
ADVANTAGES = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, -1.0]])
EVERYTHING = LensConfig(methods=[*METHODS, "power_0.5", "power_-1.5"])


def look(lengths: Tensor, advantages: Tensor, active: Tensor | None = None, own: Tensor | None = None) -> dict:
    """Quantity → number, own weights being equal unless given."""
    own = torch.ones_like(lengths).double() if own is None else own
    sums = lens_sums(EVERYTHING, own, lengths, advantages, active)
    return {name: value.item() for name, value in lens_values(EVERYTHING, sums).items()}


def test_token_mean_by_hand() -> None:
    """|A| ℓ is 10, 0, 30 and 2, 2, 8: 52 in all, 14 of it positive. By length: (4, 4), (8, 10), (20, 30)."""
    values = look(LENGTHS, ADVANTAGES)
    for method in ("own", "dapo"):
        assert values[f"{method}/weight_short"] == pytest.approx(4 / 52)
        assert values[f"{method}/weight_long"] == pytest.approx(30 / 52)
        assert values[f"{method}/prefix_bias"] == pytest.approx(0)
        assert values[f"{method}/sign_balance"] == pytest.approx((14 - 38) / 52)


def test_sequence_mean_by_hand() -> None:
    """With w = 1/ℓ, w A is 1/10, 0, −1/30, 1/8, 1/8, −1/8, and |w A| ℓ = |A|."""
    values = look(LENGTHS, ADVANTAGES)
    push = 1 / 10 - 1 / 30 + 1 / 8
    assert values["grpo/prefix_bias"] == pytest.approx(push / (1 / 10 + 1 / 30 + 3 / 8))
    assert values["grpo/sign_balance"] == pytest.approx(0)
    assert values["grpo/weight_short"] == pytest.approx(1 / 4)
    assert values["grpo/weight_long"] == pytest.approx(1 / 4)


def test_prompt_mean_by_hand() -> None:
    """Each group has the same weight: w = 1/60 and 1/16."""
    values = look(LENGTHS, ADVANTAGES)
    assert values["prompt_mean/weight_long"] == pytest.approx((30 / 60) / (40 / 60 + 12 / 16))
    assert values["prompt_mean/sign_balance"] == pytest.approx(
        (10 / 60 + 4 / 16 - 30 / 60 - 8 / 16) / (40 / 60 + 12 / 16)
    )


def test_no_preference_removes_both_biases_and_balanced_aggregation_one() -> None:
    """Wrong responses are longer: λ moves from a prefix bias to a sign imbalance."""
    generator = torch.Generator().manual_seed(0)
    correct = torch.rand(500, 8, generator=generator) < 0.5
    lengths = (100 * torch.randn(500, 8, generator=generator).mul(0.4).exp() * (1.8 - 0.8 * correct)).long() + 1
    advantages = correct.float() - correct.float().mean(1, keepdim=True)
    values = look(lengths, advantages)
    biases = [values[f"{method}/prefix_bias"] for method in ("power_0.5", "dapo", "grpo", "power_-1.5")]
    balances = [values[f"{method}/sign_balance"] for method in ("power_0.5", "dapo", "grpo", "power_-1.5")]
    assert biases == sorted(biases)
    assert balances == sorted(balances)
    assert biases[1] == pytest.approx(0, abs=1e-9)
    assert balances[2] == pytest.approx(values["balanced/sign_balance"]) == pytest.approx(0, abs=1e-6)
    assert values["balanced/prefix_bias"] > 0.1


@pytest.mark.parametrize("name", EVERYTHING.methods)
@pytest.mark.parametrize("part", [slice(None), slice(0, 1)])
@for_all(group=groups(min_size=2))
def test_weights_are_those_that_would_train_up_to_one_factor(name: str, part: slice, group: Group) -> None:
    """Also for a part of the update, such as a rank's."""
    method = find_method(name)
    lengths, advantages = group.lengths, group.rewards - group.rewards.mean(-1, keepdim=True)
    count = count_tokens(lengths, group.active, "group" if method.per_prompt else "global")
    learn = {} if FAMILIES[method.family].has_lambda else {"learn": "fixed"}
    model = preference(method.lam, family=method.family, **learn)
    trained = model(lengths, count.mean_length, group.active, advantages=advantages).detach() / count.denominator
    seen = lens_weights(method, lengths[part], advantages[part], group.active[part])
    assume(trained.sum() > 0)  # where all responses are empty, nothing has a weight
    scale = lens_weights(method, lengths, advantages, group.active).sum() / trained.sum()
    torch.testing.assert_close(seen, trained[part] * scale, rtol=1e-9, atol=1e-12)


@for_all(group=groups(min_size=2), scale=st.floats(0.01, 100))
def test_parts_add_up_and_the_scale_of_weights_does_not_matter(group: Group, scale: float) -> None:
    advantages = group.rewards - group.rewards.mean(-1, keepdim=True)
    own = group.lengths.double() + 1
    tensors = (own, group.lengths, advantages, group.active, group.surrogates)
    whole = lens_sums(EVERYTHING, *tensors)
    parts = [lens_sums(EVERYTHING, *(tensor[place : place + 1] for tensor in tensors)) for place in range(len(own))]
    added = torch.stack(parts).sum(0)
    assert SUMS[:2] == ("short", "long"), "terciles are those of a part"
    torch.testing.assert_close(added[:, 2:], whole[:, 2:])
    scaled = lens_values(EVERYTHING, lens_sums(EVERYTHING, scale * own, *tensors[1:]))
    for name, value in lens_values(EVERYTHING, whole).items():
        assert value.isfinite(), name
        torch.testing.assert_close(scaled[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_equal_lengths_make_all_methods_the_same() -> None:
    values = look(torch.full((3, 4), 7), torch.tensor([[1.0, -1.0, 2.0, -2.0]]).expand(3, 4))
    for quantity in ("weight_short", "weight_long", "prefix_bias", "sign_balance"):
        assert len({round(value, 12) for name, value in values.items() if name.endswith(quantity)}) == 1


def test_inactive_responses_are_not_seen() -> None:
    """Whatever they hold: the last of each group is left out."""
    lengths = torch.cat([LENGTHS, torch.tensor([[999], [1]])], dim=1)
    advantages = torch.cat([ADVANTAGES, torch.tensor([[7.0], [-9.0]])], dim=1)
    active = torch.tensor([[True, True, True, False]] * 2)
    assert look(lengths, advantages, active) == pytest.approx(look(LENGTHS, ADVANTAGES))


def test_an_empty_list_switches_the_lens_off() -> None:
    assert LensConfig().is_on
    assert not LensConfig(methods=[]).is_on


@pytest.mark.parametrize("active", [True, False])
def test_responses_that_teach_nothing_give_zeros(active: bool) -> None:
    values = look(LENGTHS, torch.zeros(2, 3), torch.full((2, 3), active))
    assert set(values.values()) == {0.0}


ALIGNMENTS = torch.tensor([[3.0, 0.0, -1.0], [0.5, 0.5, 2.0]])


def test_the_gain_is_that_of_a_step_of_unit_weight_and_its_interval_is_over_prompts() -> None:
    """Token mean: Σ w T per prompt 2 and 3, Σ w |A| ℓ 40 and 12: gain 5/52, residuals 2 − 40 · 5/52 and its opposite.

    The standard error of a ratio of sums over n prompts is √(n/(n − 1) Σ residuals²) / Σ w |A| ℓ.
    """
    config = LensConfig(methods=["dapo"])
    values = lens_values(config, lens_sums(config, torch.ones(2, 3), LENGTHS, ADVANTAGES, None, ALIGNMENTS))
    assert values["dapo/gain"].item() == pytest.approx(5 / 52)
    residual = 2 - 40 * 5 / 52
    margin = 1.959964 * math.sqrt(2 * 2 * residual**2) / 52
    assert values["dapo/gain_low"].item() == pytest.approx(5 / 52 - margin)
    assert values["dapo/gain_high"].item() == pytest.approx(5 / 52 + margin)
    assert values["own/gain"] == values["dapo/gain"]


def test_the_interval_shrinks_with_the_number_of_prompts_as_a_ratios_does() -> None:
    """Three prompts of one response each: residuals n_g − gain · d_g with n = (1, 5, −2) and d = (10, 20, 40)."""
    gained, weight = torch.tensor([1.0, 5.0, -2.0]), torch.tensor([10.0, 20.0, 40.0])
    config, ones = LensConfig(methods=["dapo"]), torch.ones(3, 1)
    values = lens_values(config, lens_sums(config, ones, weight[:, None].long(), ones, None, gained[:, None]))
    residuals = gained - 4 / 70 * weight
    margin = 1.959964 * float((3 / 2 * residuals.square().sum()).sqrt()) / 70
    assert values["dapo/gain_high"].item() == pytest.approx(4 / 70 + margin)


def test_there_is_no_gain_without_held_out_prompts() -> None:
    assert not [name for name in look(LENGTHS, ADVANTAGES) if "gain" in name]


def test_the_gain_is_the_slope_of_the_held_out_objective_along_the_methods_step() -> None:
    """A softmax policy of 5 tokens and 3 contexts: d/dη J_held-out(θ + η Σ w ∇S / Σ w |A| ℓ) by autograd."""
    generator = torch.Generator().manual_seed(0)
    lengths, advantages = torch.tensor([[2, 6, 3], [5, 1, 4]]), torch.tensor([[1.0, -0.4, -0.6], [-1.0, 0.2, 0.8]])
    mask = torch.arange(6) < lengths.view(-1, 1)
    tokens, contexts = (torch.randint(0, high, (6, 6), generator=generator) for high in (5, 3))
    theta = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def surrogates(logits: Tensor, of: Tensor) -> Tensor:
        logprobs = logits.log_softmax(-1)[contexts, of]
        old = theta.log_softmax(-1)[contexts, of]
        ratio = (logprobs - old).exp() * mask
        return (ratio * advantages.view(-1, 1)).sum(1)

    def heldout(logits: Tensor) -> Tensor:
        return surrogates(logits, (tokens + 1) % 5).sum() / lengths.sum()

    jacobian = torch.autograd.functional.jacobian(lambda logits: surrogates(logits, tokens), theta)
    slope = torch.autograd.functional.jacobian(heldout, theta)
    alignments = (jacobian * slope).sum((1, 2)).view(2, 3)
    values = lens_values(EVERYTHING, lens_sums(EVERYTHING, torch.ones(2, 3), lengths, advantages, None, alignments))
    for name in EVERYTHING.methods:
        weights = lens_weights(find_method(name), lengths, advantages)

        def objective(logits: Tensor, weights: Tensor = weights) -> Tensor:
            logprobs = TokenLogprobs(logits.log_softmax(-1)[contexts, tokens])
            return -policy_loss(logprobs, mask, advantages.view(-1), weights.view(-1), SurrogateConfig()).loss

        step = torch.autograd.functional.jacobian(objective, theta) / (weights * advantages.abs() * lengths).sum()
        _, expected = torch.autograd.functional.jvp(heldout, theta, step)
        assert values[f"{name}/gain"].item() == pytest.approx(expected.item(), rel=1e-9), name
    assert len({round(values[f"{name}/gain"].item(), 9) for name in EVERYTHING.methods}) == len(EVERYTHING.methods)


UNKNOWN = ["lambda", "power", "power_", "power_x", "power_nan", "power_60", "power_-60", "POWER_1"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_methods_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.lens\.methods names .*choose grpo, dapo.*power_-0\.5"):
        LensConfig(methods=[name])


@pytest.mark.parametrize("exponent", [-50, 0, 50])
def test_exponents_up_to_the_largest_are_allowed(exponent: int) -> None:
    assert find_method(f"power_{exponent}").lam == exponent
