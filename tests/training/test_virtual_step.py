"""The `validation` rule: finite differences give the inner products that autograd gives, and leave the policy alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.objective import (
    AdvantageConfig,
    LensConfig,
    SurrogateConfig,
    lens_sums,
    lens_values,
    lens_weights,
)
from lambda_grpo_pl.objective.lens import find_method
from lambda_grpo_pl.policy import Policy
from lambda_grpo_pl.training import virtual_step
from lambda_grpo_pl.training.update import Passes, prepare_rollout, score_rows
from lambda_grpo_pl.training.virtual_step import Validation, alignments, prepare_validation
from tests.scored import random_policy, scored_batch
from tests.training.parts import heldout_gradient, products_of_gradients, surrogate_gradient

PASSES = Passes(budget=50, agree=lambda number: number, backward=lambda loss: loss.backward())
ROWS = torch.arange(16)


def prepare(policy: Policy, heldout: RolloutBatch, passes: Passes = PASSES) -> Validation:
    rollout = prepare_rollout(policy, [], scored_batch(0), AdvantageConfig(), passes, needs_old=False)
    return prepare_validation(policy, [], rollout, heldout, AdvantageConfig(), passes)


def heldout_batch() -> RolloutBatch:
    """Held-out rewards with an inactive response."""
    batch = scored_batch(1)
    batch.scored().active[6] = False
    return batch


def exact_alignments(policy: Policy, validation: Validation) -> Tensor:
    return products_of_gradients(policy, validation, heldout_batch())


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bf16-mixed"])
def test_alignments_are_the_inner_products_of_gradients(mixed: bool) -> None:
    policy = random_policy()
    before = [parameter.clone() for parameter in policy.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
        validation = prepare(policy, heldout_batch())
        result = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)

    (in_float32,) = score_rows([policy], validation.rollout, ROWS, PASSES)
    assert torch.equal(validation.rollout.old, in_float32)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in policy.parameters())
    expected = exact_alignments(policy, validation)
    assert expected.abs().max() > 0
    assert float((result - expected).norm() / expected.norm()) < 0.01


def test_the_lens_gains_are_the_slopes_of_the_held_out_objective_along_each_methods_step() -> None:
    """A whole policy, exact gradients: ⟨∇J_val, Σ w ∇S⟩ / Σ w |A| ℓ for each method, from one set of alignments."""
    policy, batch = random_policy(), scored_batch(0)
    validation = prepare(policy, heldout_batch())
    aligned = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES).view(4, 4)
    groups, advantages = Groups.of(batch), validation.rollout.advantages.view(4, 4)
    lens = LensConfig(methods=["grpo", "dapo", "balanced", "power_-1.5"])
    values = lens_values(lens, lens_sums(lens, torch.ones(4, 4), groups.lengths, advantages, groups.active, aligned))
    towards = heldout_gradient(policy, validation, heldout_batch())
    for name in lens.methods:
        weights = lens_weights(find_method(name), groups.lengths, advantages).float()
        step = surrogate_gradient(policy, validation.rollout, weights.flatten())
        expected = (step @ towards) / (weights * advantages.abs() * groups.lengths).sum()
        assert values[f"{name}/gain"].item() == pytest.approx(float(expected), rel=0.02, abs=1e-4), name


def test_frozen_parameters_have_no_part_in_the_step() -> None:
    """As under LoRA, where most of the policy is frozen."""
    policy = random_policy()
    everything = alignments(policy, prepare(policy, heldout_batch()), ROWS, SurrogateConfig(), PASSES)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("self_attn" in name)
    validation = prepare(policy, heldout_batch())
    result = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    expected = exact_alignments(policy, validation)
    assert float((result - expected).norm() / expected.norm()) < 0.05
    assert float((result - everything).norm() / everything.norm()) > 0.1


def test_only_the_chosen_rows_are_aligned() -> None:
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    everything = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    some = alignments(policy, validation, ROWS[[5, 9, 14]], SurrogateConfig(), PASSES)
    assert not some[[0, 4, 6, 15]].any()
    torch.testing.assert_close(some[[5, 9, 14]], everything[[5, 9, 14]], rtol=0.05, atol=0.02)
    assert some[[5, 9, 14]].any()


def test_the_old_policy_stays_the_ratios_denominator() -> None:
    """After an update the policy has left the rollout's: clipped tokens have no gradient and drop out of S_i."""
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    near = validation.rollout.old
    assert near is not None
    clipped = validation._replace(rollout=validation.rollout._replace(old=near - 1.0))
    good = validation.rollout.advantages > 0
    result = alignments(policy, clipped, ROWS, SurrogateConfig(), PASSES)
    assert good.any()
    assert not result[good].any()
    assert result[validation.rollout.advantages < 0].any()


def test_ratios_and_importance_weights_scale_the_alignments() -> None:
    """Old log-probabilities one nat lower per token: the sequence's ratio is e, and the sampler's weights are 1.5."""
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    plain = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    rollout, heldout = validation.rollout, validation.heldout
    assert rollout.old is not None
    mask = torch.arange(rollout.old.shape[1]) < rollout.completions.lengths[:, None]
    old = torch.where(mask, rollout.old - 1, 0.0)
    sampler = torch.where(mask, old - math.log(1.5), 0.0)
    (heldout_scores,) = score_rows([policy], heldout, ROWS, PASSES)
    moved = validation._replace(
        rollout=rollout._replace(old=old, completions=rollout.completions._replace(logprobs=sampler)),
        heldout=heldout._replace(completions=heldout.completions._replace(logprobs=heldout_scores)),
    )
    config = SurrogateConfig(clip_low=1.0, clip_high=9.0, ratio_level="sequence", is_correction="truncate")
    result = alignments(policy, moved, ROWS, config, PASSES)
    expected = 1.5 * math.e * plain
    assert float((result - expected).norm() / expected.norm()) < 0.02


def test_heldout_tokens_are_counted_over_all_ranks() -> None:
    policy = random_policy()
    one, two = (
        prepare(policy, heldout_batch(), PASSES._replace(total=total)) for total in (lambda v: v, lambda v: 2 * v)
    )
    torch.testing.assert_close(2 * two.heldout_weights, one.heldout_weights)
    assert one.heldout_weights.sum() > 0
    assert one.heldout_weights.dtype == torch.float32, "as the weights that train"


def test_heldout_rewards_that_teach_nothing_give_no_alignment() -> None:
    policy, batch = random_policy(), scored_batch(1)
    batch.scored().total.fill_(1.0)
    assert not alignments(policy, prepare(policy, batch), ROWS, SurrogateConfig(), PASSES).any()


def test_weights_are_restored_when_a_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    before = [parameter.clone() for parameter in policy.parameters()]
    moved = []

    def fail(policies: list[Policy], *_: Any) -> None:
        moved.append(any(not torch.equal(a, b) for a, b in zip(policies[0].parameters(), before, strict=True)))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(virtual_step, "score_rows", fail)
    with pytest.raises(torch.OutOfMemoryError):
        alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    assert moved == [True]
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))


@pytest.mark.parametrize("first", [1e-9, 1e-3])
def test_the_first_try_at_the_step_does_not_matter(monkeypatch: pytest.MonkeyPatch, first: float) -> None:
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    monkeypatch.setattr(virtual_step, "RELATIVE_STEP", first)
    result = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    expected = exact_alignments(policy, validation)
    assert float((result - expected).norm() / expected.norm()) < 0.01


def test_a_step_that_is_not_rescaled_any_more_is_still_measured_by_its_own_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    monkeypatch.setattr(virtual_step, "MOST_TRIES", 1)
    monkeypatch.setattr(virtual_step, "RELATIVE_STEP", 1e-5)
    monkeypatch.setattr(virtual_step, "MOVES", (1.0, 2.0))  # no try is good enough
    result = alignments(policy, validation, ROWS, SurrogateConfig(), PASSES)
    expected = exact_alignments(policy, validation)
    assert float((result - expected).norm() / expected.norm()) < 0.05


def test_log_probabilities_that_do_not_move_give_no_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step grows while it searches, but not without bound."""
    policy = random_policy()
    validation = prepare(policy, heldout_batch())
    before, farthest = [parameter.detach().clone() for parameter in policy.parameters()], []
    length = float(torch.stack([parameter.norm() for parameter in before]).norm())

    def see_nothing(policies: list[Policy], *_: Any) -> list[Tensor]:
        moved = [(a.detach() - b).norm() for a, b in zip(policies[0].parameters(), before, strict=True)]
        farthest.append(float(torch.stack(moved).norm()) / length)
        assert validation.rollout.old is not None
        return [torch.zeros_like(validation.rollout.old)]

    monkeypatch.setattr(virtual_step, "score_rows", see_nothing)
    assert not alignments(policy, validation, ROWS, SurrogateConfig(), PASSES).any()
    assert max(farthest) < 10
