"""The `validation` rule: finite differences give the inner products that autograd gives, and leave the policy alone."""

from contextlib import nullcontext

import torch
from torch import Tensor

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig, compute_advantages
from lambda_grpo_pl.policy import Policy, lay_out
from lambda_grpo_pl.training.update import Passes, Rollout, score_rows
from lambda_grpo_pl.training.virtual_step import alignments
from tests.scored import random_policy, scored_batch

PASSES = Passes(
    budget=50, agree=lambda number: number, backward=lambda loss: loss.backward(), sync=lambda _: nullcontext()
)


def as_rollout(batch: RolloutBatch) -> Rollout:
    rewards = batch.scored()
    advantages = compute_advantages(rewards.total.view(batch.num_prompts, -1), AdvantageConfig()).flatten()
    return Rollout(batch.prompts, batch.sampled(), advantages, None, None, "packed")


def surrogate_gradient(policy: Policy, rollout: Rollout, weights: Tensor) -> Tensor:
    """∇ Σ w_i S_i on-policy, where S_i has the gradient of A_i Σ_t log π."""
    rows = torch.arange(len(weights))
    batch = lay_out(rollout.prompts, rollout.completions, rows, "packed")
    _, scores = policy(batch)
    total = (weights[batch.row] * rollout.advantages[batch.row] * scores.logprobs).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(policy.parameters()))])


def test_alignments_are_the_inner_products_of_gradients() -> None:
    policy = random_policy()
    rollout, heldout = as_rollout(scored_batch(0)), as_rollout(scored_batch(1))
    rows = torch.arange(16)
    rollout = rollout._replace(old=score_rows([policy], rollout, rows, PASSES)[0])
    weights = torch.full((16,), 1 / float(heldout.completions.lengths.sum()))
    before = [parameter.clone() for parameter in policy.parameters()]

    result = alignments(policy, rollout, rows, heldout, rows, weights, SurrogateConfig(), PASSES)

    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in policy.parameters())
    towards = surrogate_gradient(policy, heldout, weights)
    expected = torch.stack([surrogate_gradient(policy, rollout, torch.eye(16)[row]) @ towards for row in range(16)])
    assert expected.abs().max() > 0
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_heldout_rewards_that_teach_nothing_give_no_alignment() -> None:
    policy = random_policy()
    rollout, heldout = as_rollout(scored_batch(0)), as_rollout(scored_batch(1))
    rows = torch.arange(16)
    rollout = rollout._replace(old=score_rows([policy], rollout, rows, PASSES)[0])
    flat = heldout._replace(advantages=torch.zeros(16))
    result = alignments(policy, rollout, rows, flat, rows, torch.ones(16), SurrogateConfig(), PASSES)
    assert not result.any()
