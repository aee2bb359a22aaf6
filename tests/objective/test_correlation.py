"""The correlation rule: its sums, its moving average and its clip, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.correlation import (
    CorrelationConfig,
    LengthCorrelation,
    correlation_sums,
    lambda_from_correlation,
    pooled_correlation,
)

from .strategies import Group, for_all, groups

LENGTHS = torch.tensor([[10, 20, 60], [5, 5, 8]])
ADVANTAGES = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, -1.0]])


def test_sums_and_correlation_by_hand() -> None:
    """Group 1: ℓ − 30 = −20, −10, 30; group 2: ℓ − 6 = −1, −1, 2. One correlation of all six, not two averaged.

    Σ(ℓ − ℓ̄)A = −20 − 30 − 0.5 − 0.5 − 2 = −53, Σ(ℓ − ℓ̄)² = 1400 + 6, ΣA² = 2 + 1.5.
    """
    sums = correlation_sums(LENGTHS, ADVANTAGES)
    assert sums.tolist() == [-53.0, 1406.0, 3.5]
    assert sums.dtype == torch.float64
    assert pooled_correlation(sums).item() == pytest.approx(-53 / math.sqrt(1406 * 3.5))


def test_an_inactive_response_has_no_say() -> None:
    """Without the response of 60 tokens the first group's mean is 15: Σ(ℓ − ℓ̄)A = −5 − 3."""
    active = torch.ones_like(LENGTHS, dtype=torch.bool)
    active[0, 2] = False
    expected = [-8.0, 56.0, 2.5]
    assert correlation_sums(LENGTHS, ADVANTAGES, active).tolist() == expected
    changed = LENGTHS.masked_fill(~active, 99_999)
    assert correlation_sums(changed, ADVANTAGES.masked_fill(~active, 7.0), active).tolist() == expected


@for_all(group=groups(min_size=2), shift=st.integers(0, 500), scale=st.floats(0.1, 10))
def test_the_correlation_is_one_of_groups_whatever_their_mean_length_and_the_scale_of_rewards(
    group: Group, shift: int, scale: float
) -> None:
    """So easy short prompts beside hard long ones do not look like a length effect. Within [−1, 1]."""
    advantages = group.rewards - group.rewards.mean(-1, keepdim=True)
    x = pooled_correlation(correlation_sums(group.lengths, advantages, group.active))
    moved = group.lengths + shift * torch.arange(len(group.lengths))[:, None]
    torch.testing.assert_close(
        pooled_correlation(correlation_sums(moved, scale * advantages, group.active)), x, equal_nan=True
    )
    assert x.isnan() or abs(x) <= 1 + 1e-9


def test_leading_dimensions_are_separate_runs() -> None:
    """A simulator handles many seeds at once."""
    both = correlation_sums(torch.stack([LENGTHS, LENGTHS]), torch.stack([ADVANTAGES, -ADVANTAGES]))
    assert both.tolist() == [[-53.0, 1406.0, 3.5], [53.0, 1406.0, 3.5]]
    assert pooled_correlation(both).shape == (2,)


@pytest.mark.parametrize(
    ("correlation", "expected"), [(-0.1, -0.3), (-0.9, -1.0), (0.4, 0.0), (0.0, 0.0), (-1 / 3, -1.0)]
)
def test_lambda_is_three_times_the_correlation_between_minus_one_and_zero(correlation: float, expected: float) -> None:
    assert lambda_from_correlation(torch.tensor(correlation), CorrelationConfig()).item() == pytest.approx(expected)


def test_gain_and_bounds_are_settings() -> None:
    config = CorrelationConfig(gain=2.0, low=-0.5, high=0.7)
    assert lambda_from_correlation(torch.tensor([-1.0, 0.2, 1.0]), config).tolist() == pytest.approx([-0.5, 0.4, 0.7])


def test_the_average_forgets_a_tenth_per_update_and_starts_at_the_first_value() -> None:
    """Seen are x = −1, then +1, then −1: c = −1, (0.9·(−1) + 1)/1.9, (0.81·(−1) + 0.9·1 − 1)/2.71."""
    rule = LengthCorrelation(CorrelationConfig(gain=1.0, low=-2.0, high=2.0))
    assert rule.value.item() == 0.0
    lengths, advantages = torch.tensor([[1, 2]]), torch.tensor([[1.0, -1.0]])
    lambdas = [rule.update(lengths, sign * advantages).item() for sign in (1, -1, 1)]
    assert lambdas == pytest.approx([-1.0, 0.1 / 1.9, -0.91 / 2.71])
    assert rule.value.item() == lambdas[-1]


@pytest.mark.parametrize(
    ("lengths", "advantages"), [([[5, 5]], [[1.0, -1.0]]), ([[5, 9]], [[0.0, 0.0]]), ([[5], [9]], [[1.0], [0.0]])]
)
def test_an_update_that_says_nothing_is_no_evidence_of_zero(
    lengths: list[list[int]], advantages: list[list[float]]
) -> None:
    """Equal lengths, equal rewards, and groups of one: c and λ stay."""
    rule = LengthCorrelation(CorrelationConfig())
    rule.update(LENGTHS, ADVANTAGES)
    before = rule.value.item()
    assert before < -0.7
    lam = rule.update(torch.tensor(lengths), torch.tensor(advantages))
    assert rule.value.item() == before
    assert lam.item() == -1.0


def test_the_sums_of_parts_add_up_to_the_whole() -> None:
    """Ranks and micro-batches that hold whole groups: c is that of one process."""
    whole, split = LengthCorrelation(CorrelationConfig()), LengthCorrelation(CorrelationConfig())
    other = correlation_sums(LENGTHS[1:], ADVANTAGES[1:])
    lam = whole.update(LENGTHS, ADVANTAGES)
    assert split.update(LENGTHS[:1], ADVANTAGES[:1], reduce=lambda sums: sums + other).item() == lam.item()
    assert split.value.item() == whole.value.item()


def test_the_average_is_part_of_the_state() -> None:
    rule, restored = (LengthCorrelation(CorrelationConfig()) for _ in range(2))
    for sign in (1, -1, -1):
        rule.update(LENGTHS, sign * ADVANTAGES)
    restored.load_state_dict(rule.state_dict())
    assert restored.value.item() == rule.value.item()
    assert restored.update(LENGTHS, ADVANTAGES).item() == rule.update(LENGTHS, ADVANTAGES).item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": 0.0}, r"model\.preference\.correlation\.gain is 0"),
        ({"gain": math.inf}, r"correlation\.gain is inf"),
        ({"memory": 1.0}, r"correlation\.memory is 1"),
        ({"memory": -0.1}, r"correlation\.memory is -0\.1"),
        ({"low": 0.5}, r"correlation\.low is 0\.5 and high 0"),
        ({"low": -math.inf}, r"correlation\.low is -inf"),
        ({"high": math.nan}, r"high nan"),
    ],
)
def test_refusals_say_what_to_change(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CorrelationConfig(**settings)
