"""The families of length preferences f: how much each token of a response of length ℓ weighs.

A family maps the lengths of a group to f [B, G] with 0 at inactive responses. Z = Σ ℓ and ℓ̄ count the same responses,
so J = Σ f S / Z is GRPO with f = ℓ̄/ℓ, DAPO with f = 1 and Dr. GRPO with f = ℓ̄/L_max, exactly. The other families have
mean 1 over a group's active responses. Those that λ shapes also have a closed-form derivative df/dλ.

To add a family: write its weights (and its derivative, if λ is to be learned), enter it in `FAMILIES`, and add any new
constant to `FamilyConfig`. Nothing outside this file lists the families.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, group_std, widen

STD_EPS = 1e-8
"""δ of z = (ℓ − ℓ̄)/(σ + δ), in tokens. Equal lengths give z = 0 and so f = 1."""


@dataclass(kw_only=True)
class FamilyConfig:
    """Which family weighs the lengths, and the constants in its formula."""

    family: str = "power_softmax"
    """uniform (DAPO), grpo, dr_grpo, delta_l, power_softmax (λ-GRPO), linear, or relative_power."""
    r: float = 1 / 9
    """How far one standard deviation of length moves h = 1 + r z. 1/9 (the paper's) keeps h > 0 for groups up to 81."""
    h_floor: float = 0.01
    """Smallest h (power_softmax) or 1 + λ r z (linear). If many responses are floored and λ < 0, also set min_ess."""
    alpha: float = 0.75
    """The exponent of delta_l. Its authors recommend 0.75 for mathematics and 1 for countdown."""
    max_length: int | None = None
    """L_max of dr_grpo in tokens; null takes rollout.sampling.max_tokens."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"model.preference.family is {self.family!r}: choose one of {', '.join(FAMILIES)}.")
        if not 0 < self.r < math.inf:
            raise UserError(f"model.preference.r is {self.r}: choose a positive number.")
        if not 0 < self.h_floor < 1:
            raise UserError(f"model.preference.h_floor is {self.h_floor}: choose a number between 0 and 1.")
        if not math.isfinite(self.alpha):
            raise UserError(f"model.preference.alpha is {self.alpha}: choose a finite number.")
        if self.max_length is not None and self.max_length < 1:
            raise UserError(
                f"model.preference.max_length is {self.max_length}: choose a positive number of tokens, or null."
            )


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
        """[B, G] `values` minus their mean under `weights`, which sum to n."""
        return values - group_mean(values * weights, self.active)


Weights = Callable[[GroupLengths, Tensor, FamilyConfig], Tensor]
"""(group, λ [] or [B, 1], config) → [B, G]."""


class Family(NamedTuple):
    """One way to weigh lengths."""

    label: str
    """What tables and file names call the method."""
    weights: Weights
    """f [B, G]."""
    derivative: Weights | None = None
    """df/dλ [B, G]; None where f does not depend on λ."""
    floored: Weights | None = None
    """[B, G] bool: responses whose base was raised to the floor (an inactive one's is 1); None without a floor."""
    grpo_lambda: Callable[[GroupLengths, FamilyConfig], Tensor] | None = None
    """[B, 1] the λ at which f equals GRPO's ℓ̄/ℓ to first order in z; None where f does not depend on λ."""

    @property
    def has_lambda(self) -> bool:
        """Whether λ shapes f and can be learned."""
        return self.derivative is not None


def uniform(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = 1`: every token of the update weighs the same (DAPO, 2503.14476)."""
    return widen(group.active)


def grpo(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = ℓ̄/ℓ`: every response weighs the same, whatever its length (GRPO, 2402.03300)."""
    return group.mean_length / group.positive * group.active


def dr_grpo(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = ℓ̄/L_max`: the sum over tokens by a constant, 1/(N·L_max) Σ S (Dr. GRPO, 2503.20783)."""
    if config.max_length is None:
        raise UserError(
            "model.preference.family is dr_grpo, which divides by the longest response allowed: set "
            "model.preference.max_length."
        )
    return group.mean_length / config.max_length * group.active


def delta_l(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f ∝ ℓ^(−α)`, mean 1; α = 1 minimises the gradient's variance (ΔL normalisation, 2509.07558)."""
    return group.softmax(-config.alpha * group.positive.log())


def power_softmax(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = G · softmax(h^λ)`, h = 1 + r z: λ-GRPO (2510.06870). λ = 0 gives f = 1, λ > 0 prefers long responses."""
    return group.softmax((lam * _log_base(group, config)).exp())


def power_softmax_derivative(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """df/dλ = f · (u − mean(f u)), u = h^λ ln h."""
    log_base = _log_base(group, config)
    power = (lam * log_base).exp()
    weights = group.softmax(power)
    return weights * group.centre(power * log_base, weights)


def _base(group: GroupLengths, config: FamilyConfig) -> Tensor:
    return 1 + config.r * group.standardised()


def _log_base(group: GroupLengths, config: FamilyConfig) -> Tensor:
    return _base(group, config).clamp(min=config.h_floor).log()


def _base_floored(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    return _base(group, config) < config.h_floor


def linear(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = max(1 + λ r z, floor)`, divided by its mean over the group: λ-GRPO to first order in λ."""
    line = _line(group, lam, config).clamp(min=config.h_floor) * group.active
    return line / group_mean(line, group.active).clamp(min=config.h_floor)


def linear_derivative(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """df/dλ = (u' − f mean(u')) / mean(u), u = 1 + λ r z, with u' = r z above the floor and 0 below it."""
    line = _line(group, lam, config)
    slope = torch.where(line >= config.h_floor, config.r * group.standardised(), 0.0)
    mean = group_mean(line.clamp(min=config.h_floor), group.active).clamp(min=config.h_floor)
    return (slope - linear(group, lam, config) * group_mean(slope, group.active)) / mean


def _line(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    return 1 + lam * config.r * group.standardised()


def _line_floored(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    return _line(group, lam, config) < config.h_floor


def relative_power(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = G ℓ^λ / Σ ℓ^λ`: λ is the elasticity of a token's weight to its response's length.

    λ = 0 is DAPO, λ = −1 is GRPO up to a factor per group (its harmonic over its arithmetic mean length), λ = −α is ΔL.
    """
    return group.softmax(lam * group.positive.log())


def relative_power_derivative(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """df/dλ = f · (ln ℓ − mean(f ln ℓ))."""
    weights = relative_power(group, lam, config)
    return weights * group.centre(group.positive.log(), weights)


def _grpo_lambda_by_cv(group: GroupLengths, config: FamilyConfig) -> Tensor:
    """λ = −CV/r, because f ≈ 1 + λ r z and ℓ̄/ℓ ≈ 1 − CV·z."""
    std = group_std(group.lengths, group.active, unbiased=False)
    return -std / group_mean(group.lengths, group.active).clamp(min=1) / config.r


def _grpo_lambda_of_power(group: GroupLengths, config: FamilyConfig) -> Tensor:
    """ℓ^(−1) is GRPO's shape, whatever the lengths."""
    return -torch.ones_like(group_size(group.active))


FAMILIES: dict[str, Family] = {
    "uniform": Family("dapo", uniform),
    "grpo": Family("grpo", grpo),
    "dr_grpo": Family("dr_grpo", dr_grpo),
    "delta_l": Family("delta_l", delta_l),
    "power_softmax": Family("lambda", power_softmax, power_softmax_derivative, _base_floored, _grpo_lambda_by_cv),
    "linear": Family("linear", linear, linear_derivative, _line_floored, _grpo_lambda_by_cv),
    "relative_power": Family(
        "relative_power", relative_power, relative_power_derivative, grpo_lambda=_grpo_lambda_of_power
    ),
}
"""Every family by the name that `model.preference.family` takes."""
