from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import AdvantageConfig, compute_advantages, reward_moments
from lambda_grpo_pl.objective.advantages import _std_from_moments

from .strategies import Group, for_all, groups

CONFIGS = [
    AdvantageConfig(baseline=baseline, scale=scale)
    for baseline in ("mean", "leave_one_out", "none")
    for scale in ("group", "batch", "none")
]


def test_better_than_the_group_is_positive() -> None:
    """Hand-computed: mean 0.5, unbiased std 0.5774."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    advantages = compute_advantages(rewards, AdvantageConfig(eps=1e-12))
    expected = torch.tensor([[1.0, -1.0, -1.0, 1.0]], dtype=torch.float64) * (3 / 4) ** 0.5
    torch.testing.assert_close(advantages, expected)


@for_all(group=groups(min_size=2))
def test_group_advantages_are_centred_with_unit_spread(group: Group) -> None:
    advantages = compute_advantages(group.rewards, AdvantageConfig(eps=1e-12), group.active)
    for values, rewards, active in zip(advantages, group.rewards, group.active, strict=True):
        values, rewards = values[active], rewards[active]
        if len(rewards) > 1 and rewards.std() > 1e-9:
            assert values.mean().abs() < 1e-9
            assert values.std().item() == pytest.approx(1)
            assert ((values[:, None] > values) == (rewards[:, None] > rewards)).all()


@for_all(group=groups(min_size=2))
def test_leave_one_out_is_the_mean_of_the_others(group: Group) -> None:
    config = AdvantageConfig(baseline="leave_one_out", scale="none")
    advantages = compute_advantages(group.rewards, config, group.active)
    for row, column in group.active.nonzero():
        others = group.active[row].clone()
        others[column] = False
        if others.any():
            expected = group.rewards[row, column] - group.rewards[row, others].mean()
            torch.testing.assert_close(advantages[row, column], expected)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.baseline}-{c.scale}")
@for_all(group=groups(), other=st.floats(-100, 100))
def test_inactive_responses_have_no_advantage_and_no_say(config: AdvantageConfig, group: Group, other: float) -> None:
    advantages = compute_advantages(group.rewards, config, group.active)
    changed = torch.where(group.active, group.rewards, other)
    assert torch.equal(advantages, compute_advantages(changed, config, group.active))
    assert (advantages[~group.active] == 0).all()
    assert advantages.isfinite().all()


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_give_exactly_zero(reward: float, baseline: str) -> None:
    """Float32 rewards whose mean would round in float32."""
    for scale in ("group", "batch", "none"):
        config = AdvantageConfig(baseline=baseline, scale=scale)
        assert (compute_advantages(torch.full((2, 7), reward), config) == 0).all()


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "none"])
def test_a_group_of_one_has_no_advantage_where_a_std_divides(baseline: str) -> None:
    config = AdvantageConfig(baseline=baseline, scale="group")
    assert compute_advantages(torch.tensor([[3.0], [1.0]]), config).tolist() == [[0.0], [0.0]]


def test_batch_scale_takes_the_std_over_all_ranks() -> None:
    """Moments of two halves, added, scale as the whole does."""
    rewards = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    config = AdvantageConfig(scale="batch")
    halves = rewards.split(3)
    moments = sum(reward_moments(half) for half in halves)
    parts = torch.cat([compute_advantages(half, config, moments=moments) for half in halves])
    torch.testing.assert_close(parts, compute_advantages(rewards, config))
    torch.testing.assert_close(parts, (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + config.eps))


def test_moments_are_sums_over_the_active_rewards_in_float64() -> None:
    moments = reward_moments(torch.tensor([[0.5, 3.0, 7.0]]), torch.tensor([[True, True, False]]))
    assert moments.tolist() == [2, 3.5, 9.25]
    assert moments.dtype == reward_moments(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float64


def test_the_std_of_a_batch_is_never_nan() -> None:
    """No reward, one reward, and three equal ones whose sums round to a negative variance."""
    for rewards in ([], [0.3], [0.3] * 3):
        moments = reward_moments(torch.tensor([rewards], dtype=torch.float64))
        assert _std_from_moments(moments).item() == pytest.approx(0, abs=1e-8), rewards
    assert _std_from_moments(torch.tensor([2.0, 2.0, 1.99])).item() == 0
    assert _std_from_moments(torch.tensor([2.0, 3.0, 5.0])).item() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("given", "dtype"), [(torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2]
)
def test_without_baseline_and_scale_the_rewards_are_the_advantages(given: torch.dtype, dtype: torch.dtype) -> None:
    """In float32, or as wide as the rewards."""
    rewards = torch.tensor([[0.5, 3.0], [-1.0, 0.0]], dtype=given)
    advantages = compute_advantages(rewards, AdvantageConfig(baseline="none", scale="none"))
    assert torch.equal(advantages, rewards.to(dtype))
    assert advantages.dtype == dtype


def test_defaults() -> None:
    config = AdvantageConfig()
    assert (config.baseline, config.scale, config.eps) == ("mean", "group", 1e-6)


@pytest.mark.parametrize("settings", [{"baseline": "median"}, {"scale": "std"}, {"eps": 0.0}, {"eps": math.nan}])
def test_refusals_name_the_setting(settings: dict) -> None:
    with pytest.raises(UserError, match=rf"model\.objective\.advantage\.{next(iter(settings))}"):
        AdvantageConfig(**settings)
