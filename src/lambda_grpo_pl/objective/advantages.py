"""Advantages: how much better a response is than the others to the same prompt.

    A_i = (R_i − baseline) / (std + eps)

GRPO (DeepSeekMath, 2402.03300) uses the group's mean and the group's std. Dr. GRPO (2503.20783) omits the std, because
dividing by it makes easy and hard prompts weigh more than the others. The leave-one-out baseline is RLOO's
(2402.14740). Every std here is the unbiased one (n − 1), as in TRL and verl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, group_std, widen

Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]


@dataclass(kw_only=True)
class AdvantageConfig:
    """How rewards become advantages."""

    baseline: Baseline = "mean"
    """What is subtracted: the mean of the group, the mean of its other responses (RLOO), or nothing."""
    scale: Scale = "group"
    """What it is divided by: the group's std (GRPO), the std of all rewards of the update, or nothing (Dr. GRPO)."""
    eps: float = 1e-6
    """Added to the std. 1e-6 is verl's, 1e-4 is TRL's."""

    def __post_init__(self) -> None:
        for name, allowed in (("baseline", get_args(Baseline)), ("scale", get_args(Scale))):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"model.objective.advantage.{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}."
                )
        if not self.eps > 0:
            raise UserError(f"model.objective.advantage.eps is {self.eps}: make it positive, for example 1e-6.")


def reward_moments(rewards: Tensor, active: Tensor | None = None) -> Tensor:
    """Sums from which the std of a whole batch follows; add them over ranks before `compute_advantages`.

    Shapes: rewards [B, G], active [B, G] bool → [3] float64: number, sum and sum of squares of the active rewards.
    """
    mask = active_mask(rewards, active)
    values = widen(rewards) * mask
    return torch.stack([mask.sum(), values.sum(), values.square().sum()])


def compute_advantages(
    rewards: Tensor, config: AdvantageConfig, active: Tensor | None = None, moments: Tensor | None = None
) -> Tensor:
    """Compare each response's reward with its group.

    Where a std divides and it is 0 (equal rewards, or a group of one), the advantages are 0. Inactive responses get 0
    and are left out of their group's statistics.

    Shapes: rewards [B, G], active [B, G] bool, moments [3] from `reward_moments` summed over ranks (used by
    scale="batch" only; the moments of `rewards` alone where None) → [B, G], float32 or as wide as `rewards`.
    """
    mask = active_mask(rewards, active)
    values = widen(rewards)
    centred = (values - _baseline(values, mask, config.baseline)) * mask
    if config.scale != "none":
        std = group_std(values, mask, unbiased=True)
        if config.scale == "batch":
            std = _std_from_moments(reward_moments(rewards, active) if moments is None else moments)
        centred = torch.where(std > 0, centred / (std + config.eps), 0.0)
    return centred.to(torch.promote_types(rewards.dtype, torch.float32))


def _baseline(values: Tensor, active: Tensor, baseline: Baseline) -> Tensor:
    mean = group_mean(values, active)
    if baseline == "mean":
        return mean
    if baseline == "none":
        return torch.zeros_like(mean)
    # R − mean of the others = n / (n − 1) · (R − mean of all), so the mean of the others is:
    num_others = (group_size(active) - 1).clamp(min=1)
    return mean - (values - mean) / num_others


def _std_from_moments(moments: Tensor) -> Tensor:
    count, total, squares = moments.unbind()
    variance = (squares - total.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
    return variance.clamp(min=0).sqrt()
