from __future__ import annotations

import pytest
import torch

from lambda_grpo_pl.objective import count_tokens

from .strategies import Group, for_all, groups


def test_group_scope_averages_the_prompts_token_means() -> None:
    """Σ S/Z = mean over prompts of (Σ S_b / Σ ℓ_b)."""
    lengths = torch.tensor([[2, 4], [10, 30]])
    surrogates = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    count = count_tokens(lengths, scope="group")
    assert (surrogates / count.denominator).sum().item() == pytest.approx((3 / 6 + 8 / 40) / 2)
    assert count.mean_length.tolist() == [[3.0], [20.0]]


def test_global_scope_is_one_token_mean() -> None:
    lengths = torch.tensor([[2, 4], [10, 30]])
    count = count_tokens(lengths, torch.tensor([[True, False], [True, True]]))
    assert (count.denominator.item(), count.mean_length.item()) == (42, 14)


@pytest.mark.parametrize("scope", ["global", "group"])
@for_all(group=groups())
def test_a_count_over_ranks_equals_one_process(scope: str, group: Group) -> None:
    """Two ranks that add their sums see the count of the whole update, with one collective each."""
    lengths = torch.cat([group.lengths, group.lengths + 1])
    active = torch.cat([group.active, ~group.active])
    ranks = list(zip(lengths.chunk(2), active.chunk(2), strict=True))
    sums: list[torch.Tensor] = []
    for rank in ranks:
        count_tokens(*rank, scope=scope, reduce=lambda vector: sums.append(vector) or vector)
    assert len(sums) == 2
    parts = [count_tokens(*rank, scope=scope, reduce=lambda _: sums[0] + sums[1]) for rank in ranks]
    whole = count_tokens(lengths, active, scope)
    for field in ("denominator", "mean_length"):
        expected = getattr(whole, field)
        ours = [getattr(part, field) for part in parts]
        torch.testing.assert_close(torch.cat(ours) if expected.dim() else ours[0], expected)


@pytest.mark.parametrize("scope", ["global", "group"])
@for_all(group=groups())
def test_inactive_lengths_never_matter_and_nothing_is_nan(scope: str, group: Group) -> None:
    count = count_tokens(group.lengths, group.active, scope)
    changed = count_tokens(torch.where(group.active, group.lengths, 7777), group.active, scope)
    assert torch.equal(count.denominator, changed.denominator)
    assert torch.equal(count.mean_length, changed.mean_length)
    assert (count.denominator >= 1).all()
    assert count.mean_length.isfinite().all()


def test_a_prompt_without_active_responses_is_no_prompt() -> None:
    lengths = torch.tensor([[2, 4], [10, 30]])
    active = torch.tensor([[True, True], [False, False]])
    assert count_tokens(lengths, active, "group").denominator.tolist() == [[6.0], [1.0]]


def test_a_prompt_with_one_active_response_is_a_prompt() -> None:
    lengths = torch.tensor([[2, 4], [10, 30]])
    active = torch.tensor([[True, False], [True, True]])
    assert count_tokens(lengths, active, "group").denominator.tolist() == [[4.0], [80.0]]


@pytest.mark.parametrize("scope", ["global", "group"])
def test_a_single_token_is_counted_as_one_in_float64(scope: str) -> None:
    count = count_tokens(torch.tensor([[1]]), scope=scope)
    assert (count.denominator.item(), count.mean_length.item()) == (1, 1)
    assert count.denominator.dtype == count.mean_length.dtype == torch.float64


def test_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="global or group"):
        count_tokens(torch.ones(1, 1), scope="prompt")
