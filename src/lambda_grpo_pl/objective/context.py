"""φ(x): what is known of a prompt's group without a gradient, for a λ per prompt (λ_x = λ + w·φ)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lambda_grpo_pl.objective.group_lengths import Total
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_std, widen

FEATURES = ("mean_reward", "length_cv", "log_mean_length", "prompt_length")
"""The K columns of `context_features`."""
FORGETTING = 0.99
"""What one optimizer step leaves of the earlier steps' weight: a memory of about 100 steps."""
SMALLEST_STD = 1e-6
"""A feature that varies less than this counts as constant."""
LIMIT = 3.0
"""Largest |φ| in standard deviations, so that no single odd prompt carries w away."""


def context_features(rewards: Tensor, lengths: Tensor, prompt_lengths: Tensor, active: Tensor | None = None) -> Tensor:
    """Describe each prompt's group: rewards [B, G], lengths [B, G] tokens, prompt_lengths [B] tokens → [B, K], raw."""
    mask = active_mask(lengths, active)
    mean_length = group_mean(lengths, mask)
    cv = group_std(lengths, mask, unbiased=False) / mean_length.clamp(min=1)
    columns = [group_mean(widen(rewards), mask), cv, mean_length.clamp(min=1).log(), prompt_lengths[:, None]]
    return torch.cat(columns, dim=1)


class RunningMoments(nn.Module):
    """Exponentially forgetting mean and variance of K features: state of a run, so buffers that a checkpoint holds."""

    count: Tensor
    """[] weight of everything seen."""
    mean: Tensor
    """[K]"""
    variance: Tensor
    """[K] population variance."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("variance", torch.zeros(num_features))

    def update(self, features: Tensor, counts: Tensor, reduce: Total) -> None:
        """Merge one step's [B, K] features where `counts` [B] is True; `reduce` adds a [1 + 2K] vector over ranks."""
        values = widen(features)[counts]
        sums = reduce(torch.cat([counts.sum()[None], values.sum(0), values.square().sum(0)]))
        rows, (mean, squares) = sums[0], sums[1:].view(2, -1) / sums[0].clamp(min=1)
        variance = (squares - mean.square()).clamp(min=0)
        share = rows / (FORGETTING * self.count + rows).clamp(min=1)
        shift = mean - self.mean
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * shift.square())
        self.mean.add_(share * shift)
        self.count.mul_(FORGETTING).add_(rows)

    def standardise(self, features: Tensor) -> Tensor:
        """[B, K] φ within ±3 standard deviations; 0 for a feature that has not varied yet."""
        std = widen(self.variance).sqrt()
        return torch.where(std > SMALLEST_STD, (features - self.mean) / std, 0.0).clamp(-LIMIT, LIMIT)
