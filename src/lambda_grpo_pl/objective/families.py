"""The families of length preferences f: how much each token of a response of length ℓ weighs.

A family maps the lengths of a group to f [B, G] with 0 at inactive responses. Z = Σ ℓ and ℓ̄ count the same responses,
so J = Σ f S / Z is GRPO with f = ℓ̄/ℓ, DAPO with f = 1 and Dr. GRPO with f = ℓ̄/L_max, exactly. The other families have
mean 1 over a group's active responses. Those that λ shapes also have a closed-form derivative df/dλ.

To add a family: write its weights (and its derivative, if λ is to be learned) and enter it in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, group_std, widen

if TYPE_CHECKING:
    from lambda_grpo_pl.objective.preference import PreferenceConfig

STD_EPS = 1e-8
"""δ of z = (ℓ − ℓ̄)/(σ + δ), in tokens. Equal lengths give z = 0 and so f = 1."""


class GroupLengths(NamedTuple):
    """What a family sees of a batch."""

    lengths: Tensor
    """[B, G] float64 tokens."""
    active: Tensor
    """[B, G] bool."""
    mean_length: Tensor
    """[] or [B, 1] tokens: ℓ̄ over the responses that Z counts (`TokenCount.mean_length`)."""

    @classmethod
    def of(cls, lengths: Tensor, mean_length: Tensor, active: Tensor | None) -> GroupLengths:
        """Widen int64 lengths and fill in the mask."""
        return cls(widen(lengths), active_mask(lengths, active), widen(mean_length))

    @property
    def positive(self) -> Tensor:
        """[B, G] lengths of at least 1: an empty response has no token to weigh, its f only has to be finite."""
        return self.lengths.clamp(min=1)

    def standardised(self) -> Tensor:
        """[B, G] z = (ℓ − ℓ̄)/(σ + δ) within the group, with the population's σ, hence |z| ≤ √(G − 1); 0 if inactive."""
        centred = (self.lengths - group_mean(self.lengths, self.active)) * self.active
        return centred / (group_std(self.lengths, self.active, unbiased=False) + STD_EPS)

    def softmax(self, logits: Tensor) -> Tensor:
        """[B, G] n · softmax over the n active responses; 0 at the others."""
        # The lowest finite number and not −inf: a group without an active response must not make NaN, nor its gradient.
        weights = logits.masked_fill(~self.active, torch.finfo(logits.dtype).min).softmax(-1)
        return group_size(self.active) * weights * self.active

    def centre(self, values: Tensor, weights: Tensor) -> Tensor:
        """[B, G] `values` minus their mean under `weights` (which sum to n); 0 at inactive responses."""
        return (values - group_mean(values * weights, self.active)) * self.active


Weights = Callable[[GroupLengths, Tensor, "PreferenceConfig"], Tensor]
"""(group, λ [] or [B, 1], config) → [B, G]."""


class Family(NamedTuple):
    """One way to weigh lengths."""

    weights: Weights
    """f [B, G]."""
    derivative: Weights | None = None
    """df/dλ [B, G]; None where λ has no part in f."""
    floored: Weights | None = None
    """[B, G] bool: responses whose base the floor had to lift; None where nothing is floored."""


def uniform(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = 1`: every token of the update weighs the same (DAPO, 2503.14476)."""
    return widen(group.active)


def grpo(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = ℓ̄/ℓ`: every response weighs the same, whatever its length (GRPO, 2402.03300)."""
    return group.mean_length / group.positive * group.active


def dr_grpo(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = ℓ̄/L_max`: the sum over tokens by a constant, 1/(N·L_max) Σ S (Dr. GRPO, 2503.20783)."""
    if config.max_length is None:
        raise ValueError("The dr_grpo family divides by the longest response allowed: set preference.max_length.")
    return group.mean_length / config.max_length * widen(group.active)


def delta_l(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f ∝ ℓ^(−α)`, mean 1; α = 1 minimises the gradient's variance (ΔL normalisation, 2509.07558)."""
    return group.softmax(-config.alpha * group.positive.log())


def power_softmax(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = G · softmax(h^λ)`, h = 1 + r z: λ-GRPO (2510.06870). λ = 0 gives f = 1, λ > 0 prefers long responses."""
    return group.softmax((lam * _log_base(group, config)).exp())


def power_softmax_derivative(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """df/dλ = f · (u − mean(f u)), u = h^λ ln h."""
    log_base = _log_base(group, config)
    power = (lam * log_base).exp()
    weights = group.softmax(power)
    return weights * group.centre(power * log_base, weights)


def _base(group: GroupLengths, config: PreferenceConfig) -> Tensor:
    return 1 + config.r * group.standardised()


def _log_base(group: GroupLengths, config: PreferenceConfig) -> Tensor:
    return _base(group, config).clamp(min=config.h_floor).log()


def _base_floored(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    return (_base(group, config) < config.h_floor) & group.active


def linear(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = max(1 + λ r z, floor)`, divided by its mean over the group: λ-GRPO to first order in λ."""
    line = _line(group, lam, config).clamp(min=config.h_floor) * group.active
    return line / group_mean(line, group.active).clamp(min=config.h_floor)


def linear_derivative(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """df/dλ = (u' − f mean(u')) / mean(u), u = 1 + λ r z, with u' = r z above the floor and 0 below it."""
    line = _line(group, lam, config)
    slope = torch.where(line >= config.h_floor, config.r * group.standardised(), 0.0)
    mean = group_mean(line.clamp(min=config.h_floor), group.active).clamp(min=config.h_floor)
    return (slope - linear(group, lam, config) * group_mean(slope, group.active)) / mean * group.active


def _line(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    return 1 + lam * config.r * group.standardised()


def _line_floored(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    return (_line(group, lam, config) < config.h_floor) & group.active


def relative_power(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """`f = G ℓ^λ / Σ ℓ^λ`: λ is the elasticity of a token's weight to its response's length.

    λ = 0 is DAPO, λ = −1 is GRPO up to a factor per group (its harmonic over its arithmetic mean length), λ = −α is ΔL.
    """
    return group.softmax(lam * group.positive.log())


def relative_power_derivative(group: GroupLengths, lam: Tensor, config: PreferenceConfig) -> Tensor:
    """df/dλ = f · (ln ℓ − mean(f ln ℓ))."""
    weights = relative_power(group, lam, config)
    return weights * group.centre(group.positive.log(), weights)


FAMILIES: dict[str, Family] = {
    "uniform": Family(uniform),
    "grpo": Family(grpo),
    "dr_grpo": Family(dr_grpo),
    "delta_l": Family(delta_l),
    "power_softmax": Family(power_softmax, power_softmax_derivative, _base_floored),
    "linear": Family(linear, linear_derivative, _line_floored),
    "relative_power": Family(relative_power, relative_power_derivative),
}
"""Every family by the name that `preference.family` takes."""
