"""Exact gradients to hold the `validation` rule against."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.policy import Policy, lay_out
from lambda_grpo_pl.training.update import Rollout
from lambda_grpo_pl.training.virtual_step import Validation


def surrogate_gradient(policy: Policy, rollout: Rollout, weights: Tensor) -> Tensor:
    """∇ Σ w_i S_i on-policy, where S_i has the gradient of A_i Σ_t log π."""
    batch = lay_out(rollout.prompts, rollout.completions, torch.arange(len(weights)), "packed")
    _, scores = policy(batch)
    total = (weights[batch.row] * rollout.advantages[batch.row] * scores.logprobs).sum()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, trained)])


def heldout_gradient(policy: Policy, validation: Validation, heldout: RolloutBatch) -> Tensor:
    """∇J_val in float32, every held-out token of an active response with weight 1 / Z."""
    groups = Groups.of(heldout)
    weights = (groups.active / (groups.lengths * groups.active).sum()).flatten()
    return surrogate_gradient(policy, validation.heldout, weights)


def products_of_gradients(policy: Policy, validation: Validation, heldout: RolloutBatch) -> Tensor:
    """⟨∇J_val, ∇S_i⟩ for each row of the rollout; `heldout` is the batch that `validation` was prepared from."""
    towards = heldout_gradient(policy, validation, heldout)
    eye = torch.eye(len(validation.rollout.advantages))
    return torch.stack([surrogate_gradient(policy, validation.rollout, row) @ towards for row in eye])
