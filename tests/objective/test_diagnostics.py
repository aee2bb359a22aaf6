from __future__ import annotations

import pytest
import torch

from lambda_grpo_pl.objective import LEARNABLE, count_tokens, preference_statistics

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


@pytest.mark.parametrize("family", LEARNABLE)
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


@pytest.mark.parametrize("family", LEARNABLE)
@for_all(group=groups())
def test_never_nan(family: str, group: Group) -> None:
    model, count = preference(-2.0, family=family), count_tokens(group.lengths, group.active, "group")
    weights = model(group.lengths, count.mean_length, group.active)
    values = preference_statistics(
        model, weights, group.lengths, group.rewards, group.rewards > 0.5, count, group.active
    )
    assert all(value.isfinite() and value.dim() == 0 for value in values.values())
    assert 0 <= values["ess"] <= 1 + 1e-9
    assert abs(values["length_advantage_corr"]) <= 1 + 1e-9
    assert values["weight_short"] + values["weight_middle"] + values["weight_long"] <= 1 + 1e-9
