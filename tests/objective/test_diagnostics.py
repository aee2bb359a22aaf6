from __future__ import annotations

import pytest
import torch

from lambda_grpo_pl.objective import (
    FAMILIES,
    LEARNABLE,
    LengthPreference,
    PreferenceConfig,
    count_tokens,
    preference_statistics,
)

from .golden import preference
from .strategies import Group, for_all, groups

LENGTHS = torch.tensor([[100, 200, 300], [100, 200, 300]])
ADVANTAGES = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]])
CORRECT = torch.tensor([[True, False, False], [True, True, False]])


def statistics(lam: float = 0.0, family: str = "power_softmax", **settings: float) -> dict[str, float]:
    model, count = preference(lam, family=family, **settings), count_tokens(LENGTHS)
    weights = model(LENGTHS, count.mean_length)
    values = preference_statistics(model, weights, LENGTHS, ADVANTAGES, CORRECT, count)
    return {name: value.item() for name, value in values.items()}


def test_by_hand_at_lambda_zero() -> None:
    values = statistics()
    assert values["f_min"] == values["f_max"] == values["ess"] == pytest.approx(1)
    assert values["length_advantage_corr"] == pytest.approx(-1)
    shares = [values[f"weight_{third}"] for third in ("short", "middle", "long")]
    assert shares == pytest.approx([0.25, 0.0, 0.75])
    assert values["length_correct"] == pytest.approx(400 / 3)
    assert values["length_incorrect"] == pytest.approx(800 / 3)
    assert values["floored"] == values["at_bound"] == 0


def test_lambda_moves_the_shares_and_the_effective_sample_size() -> None:
    values = statistics(-4.0)
    assert values["weight_short"] > 0.25
    assert values["ess"] < 0.9
    assert values["f_min"] < 1 < values["f_max"]


@pytest.mark.parametrize("family", [name for name in LEARNABLE if FAMILIES[name].grpo_lambda is not None])
def test_the_grpo_equivalent_lambda_gives_grpos_weights_to_first_order(family: str) -> None:
    """Lengths within 2 % and a small r: f at that λ is ℓ̄/ℓ up to second order."""
    lengths = torch.tensor([[980, 1000, 1010, 1010]])
    count = count_tokens(lengths)
    model = preference(0.0, family=family, r=0.01)
    flags = torch.ones_like(lengths, dtype=torch.bool)
    values = preference_statistics(model, flags.double(), lengths, lengths.double(), flags, count)
    model.lam.data.copy_(values["grpo_lambda"])
    torch.testing.assert_close(model(lengths, count.mean_length).detach(), 1000 / lengths.double(), rtol=0, atol=6e-4)
    assert abs(model(lengths, count.mean_length)[0, 0].item() - 1) > 0.015


def test_floored_and_bound_are_reported() -> None:
    """With r so large that h ≤ 0 for the shortest of three, λ at its bound."""
    values = statistics(5.0, r=1.0)
    assert values["floored"] == pytest.approx(1 / 3)
    assert values["at_bound"] == 1
    assert values["lambda"] == 5


def test_groups_weigh_alike_and_inactive_responses_not_at_all() -> None:
    """A group of two with f = 0.5 and 1.5, one of a single response, and one without any."""
    lengths = torch.tensor([[100, 300, 900], [200, 900, 900], [900, 900, 900]])
    active = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    advantages = torch.tensor([[5.0, 7.0, 99.0], [1.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    weights = torch.tensor([[0.5, 1.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    count = count_tokens(lengths, active)
    nobody, everybody = torch.zeros_like(active), torch.ones_like(active)
    values = preference_statistics(preference(0.0), weights, lengths, advantages, nobody, count, active)
    assert values["f_min"].item() == pytest.approx((0.5 + 1) / 2)
    assert values["f_max"].item() == pytest.approx((1.5 + 1) / 2)
    assert values["ess"].item() == pytest.approx((0.8 + 1) / 2)
    assert values["length_advantage_corr"].item() == pytest.approx(1)
    assert values["length_incorrect"].item() == values["length_correct"].item() == 200
    values = preference_statistics(preference(0.0), weights, lengths, advantages, everybody, count, active)
    assert values["length_incorrect"].item() == values["length_correct"].item() == 200


def test_a_single_response_has_its_own_length_and_all_the_weight() -> None:
    lengths, one = torch.tensor([[50]]), torch.ones(1, 1)
    values = preference_statistics(preference(0.0), one, lengths, one, one.bool(), count_tokens(lengths))
    assert values["length_correct"].item() == values["length_incorrect"].item() == 50
    assert sum(values[f"weight_{third}"].item() for third in ("short", "middle", "long")) == 1


def test_shares_weigh_each_prompt_by_its_own_token_count() -> None:
    """|A| ℓ / Z_b = 100/200, 100/600 and 500/600 over three prompts' worth, in the order of length."""
    lengths = torch.tensor([[200, 0], [100, 500]])
    active = torch.tensor([[True, False], [True, True]])
    ones = torch.ones(2, 2)
    count = count_tokens(lengths, active, "group")
    values = preference_statistics(preference(0.0), ones, lengths, ones, active, count, active)
    shares = [values[f"weight_{third}"].item() for third in ("short", "middle", "long")]
    assert shares == pytest.approx([1 / 12, 1 / 2, 5 / 12])


def test_correlation_ignores_scale_and_the_groups_mean_and_is_zero_without_spread() -> None:
    """Equal float32 advantages, whose mean rounds in float32, correlate with nothing."""
    lengths = torch.tensor([[100, 200, 300, 350, 420, 440, 470]])
    count, flags = count_tokens(lengths), torch.ones_like(lengths, dtype=torch.bool)

    def correlation(advantages: torch.Tensor) -> float:
        values = preference_statistics(preference(0.0), flags, lengths, advantages, flags, count)
        return values["length_advantage_corr"].item()

    assert correlation(torch.full((1, 7), 0.1)) == 0
    advantages = torch.tensor([[1.0, 0.0, -1.0, 2.0, 2.0, -3.0, 0.5]])
    expected = torch.corrcoef(torch.cat([lengths.double(), advantages.double()]))[0, 1].item()
    assert correlation(advantages) == pytest.approx(expected)
    assert correlation(1e-6 * advantages.double() + 4) == pytest.approx(expected)


def test_at_bound_is_reported_on_either_side_and_if_one_prompt_is_there() -> None:
    assert statistics(-5.0)["at_bound"] == 1
    model = LengthPreference(PreferenceConfig(init=0.01, bound=0.01))  # as a float32, λ is below
    arguments = (torch.ones(2, 3), LENGTHS, ADVANTAGES, CORRECT, count_tokens(LENGTHS), None)
    assert preference_statistics(model, *arguments)["at_bound"] == 1
    model = preference(0.0, contextual=True)
    model.w.data.fill_(2.0)
    model.moments.variance.fill_(1.0)
    features = torch.tensor([[3.0] * 4, [0.0] * 4], dtype=torch.float64)
    assert preference_statistics(model, *arguments, features)["at_bound"] == 1
    assert preference_statistics(model, *arguments, 0 * features)["at_bound"] == 0


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups())
def test_never_nan(family: str, group: Group) -> None:
    model, count = preference(-2.0, family=family), count_tokens(group.lengths, group.active, "group")
    weights = model(group.lengths, count.mean_length, group.active, advantages=group.rewards)
    values = preference_statistics(
        model, weights.float(), group.lengths, group.rewards, group.rewards > 0.5, count, group.active
    )
    assert all(value.isfinite() and value.dim() == 0 and value.dtype == torch.float64 for value in values.values())
    assert not any(value.requires_grad for value in values.values()), "they are kept until they are logged"
    assert 0 <= values["ess"] <= 1 + 1e-9
    assert abs(values["length_advantage_corr"]) <= 1 + 1e-9
    assert values["weight_short"] + values["weight_middle"] + values["weight_long"] <= 1 + 1e-9
