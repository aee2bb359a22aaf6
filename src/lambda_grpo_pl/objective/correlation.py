"""The correlation rule: λ follows the correlation of length and advantage; no gradient, no held-out data.

    x_t = Σ_i (ℓ_i − ℓ̄_g) A_i / √(Σ_i (ℓ_i − ℓ̄_g)² · Σ_i A_i²)      pooled over all groups g of update t, on all ranks
    c_t = exponential moving average of x_t
    λ_t = clip(κ c_t, low, high)

Where wrong responses are the long ones, c is negative and short responses gain weight, as in GRPO. Where right ones
are long, or where length says nothing, λ stays near 0, which is DAPO. Everything it reads is known before the first
forward pass, so λ_t already weighs the update that it was measured on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.group_lengths import Total, one_part
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, widen

KEY = "model.preference.correlation"
"""Where users set `CorrelationConfig`."""


@dataclass(kw_only=True)
class CorrelationConfig:
    """How λ follows the correlation of length and advantage (`model.preference.learn: correlation`)."""

    gain: float = 3.0
    """κ: λ per unit of correlation."""
    memory: float = 0.9
    """Share of its weight that an update keeps at the next one: 0.9 averages about 10 updates, 0 takes the last one."""
    low: float = -1.0
    """Smallest λ. −1 is GRPO's shape in relative_power and batch_power."""
    high: float = 0.0
    """Largest λ. 0 never prefers long responses."""

    def __post_init__(self) -> None:
        if not 0 < self.gain < math.inf:
            raise UserError(f"{KEY}.gain is {self.gain}: choose a positive number.")
        if not 0 <= self.memory < 1:
            raise UserError(f"{KEY}.memory is {self.memory}: choose a number from 0 to below 1.")
        if not -math.inf < self.low <= self.high < math.inf:
            raise UserError(f"{KEY}.low is {self.low} and high {self.high}: choose two numbers, low at most high.")


def correlation_sums(lengths: Tensor, advantages: Tensor, active: Tensor | None = None) -> Tensor:
    """The three sums from which the correlation follows; add them over micro-batches and ranks.

    Shapes: lengths (tokens), advantages and active (bool) [..., B, G] → [..., 3] float64: Σ (ℓ − ℓ̄_g) A, Σ (ℓ − ℓ̄_g)²
    and Σ A² over the active responses, ℓ̄_g the mean length of the response's group.
    """
    mask = active_mask(lengths, active)
    lengths, advantages = widen(lengths), widen(advantages) * mask
    longer = (lengths - group_mean(lengths, mask)) * mask
    products = torch.stack([longer * advantages, longer.square(), advantages.square()], dim=-1)
    return products.sum((-3, -2))


def pooled_correlation(sums: Tensor) -> Tensor:
    """Return x from `correlation_sums`, [..., 3] → [...]; NaN where lengths or advantages do not vary."""
    covariance, squared_lengths, squared_advantages = sums.unbind(-1)
    scale = (squared_lengths * squared_advantages).sqrt()
    return torch.where(scale > 0, covariance / scale, torch.nan)


def lambda_from_correlation(correlation: Tensor, config: CorrelationConfig) -> Tensor:
    """λ = clip(κ c, low, high), elementwise."""
    return (config.gain * correlation).clamp(config.low, config.high)


class LengthCorrelation(nn.Module):
    """c, the moving average of the pooled correlation: state of a run, so buffers that a checkpoint holds.

    Old values lose weight by `memory` per update and the weights are normalized, so c is the first x after one update
    and not a tenth of it. An update in which lengths or advantages do not vary leaves c as it is.
    """

    weighted_sum: Tensor
    """[] float32 Σ_s memory^(t − s) x_s."""
    weight: Tensor
    """[] float32 Σ_s memory^(t − s)."""

    def __init__(self, config: CorrelationConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("weighted_sum", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(
        self,
        lengths: Tensor,
        advantages: Tensor,
        active: Tensor | None = None,
        reduce: Total = one_part,
    ) -> Tensor:
        """Take one update's responses, [B, G] each, into c and return λ [] float64; `reduce` adds [3] over ranks."""
        observed = pooled_correlation(reduce(correlation_sums(lengths, advantages, active)))
        if not observed.isnan():
            self.weighted_sum.mul_(self.config.memory).add_(observed)
            self.weight.mul_(self.config.memory).add_(1.0)
        return lambda_from_correlation(self.value, self.config)

    @property
    def value(self) -> Tensor:
        """[] float64 c within [−1, 1]; 0 before the first update that says something."""
        return widen(self.weighted_sum) / widen(self.weight).clamp(min=1.0)
