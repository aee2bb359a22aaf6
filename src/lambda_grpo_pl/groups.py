"""The [B, G] view of a scored batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Completions, Rewards, RolloutBatch


class Groups(NamedTuple):
    """The [B, G] view of one mini-batch: what f, Z and λ's gradient are made from."""

    rows: Tensor
    """int64 row of the rollout."""
    lengths: Tensor
    """int64 tokens."""
    active: Tensor
    """bool: counts in Z and in its group's statistics."""
    rewards: Tensor
    """float32"""
    correct: Tensor
    """bool"""
    prompt_lengths: Tensor
    """[B] int64 tokens."""

    @classmethod
    def of(cls, batch: RolloutBatch, prompts: slice = slice(None)) -> Groups:
        """View some prompts of a scored batch. An empty response is inactive."""
        shape = (batch.num_prompts, batch.group_size)
        completions: Completions = batch.require("completions")
        rewards: Rewards = batch.require("rewards")
        rows = torch.arange(shape[0] * shape[1], device=rewards.total.device)
        active = rewards.active & (completions.lengths > 0)
        flat = (rows, completions.lengths, active, rewards.total, rewards.correct)
        views = [tensor.view(shape)[prompts] for tensor in flat]
        return cls._make([*views, batch.prompts.lengths[prompts]])
