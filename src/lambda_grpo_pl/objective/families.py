"""The families of length preferences f: how much each token of a response of length ℓ weighs.

A family maps the lengths of a group to f [B, G] with 0 at inactive responses. Z = Σ ℓ and ℓ̄ count the same responses,
so J = Σ f S / Z is GRPO with f = ℓ̄/ℓ, DAPO with f = 1, Dr. GRPO with f = ℓ̄/L_max and Balanced Aggregation with f = ℓ̄
over the mean length of the responses with the same sign of A, exactly. The other families have mean 1 over a group's
active responses (`batch_power` over the update's, `balanced_power` over the group's tokens). Those that λ shapes also
have a closed-form derivative df/dλ.

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
from lambda_grpo_pl.objective.group_lengths import GroupLengths
from lambda_grpo_pl.objective.group_math import group_mean, group_size, group_std, widen


@dataclass(kw_only=True)
class FamilyConfig:
    """Which family weighs the lengths, and the constants in its formula."""

    family: str = "power_softmax"
    """uniform (DAPO), grpo, dr_grpo, delta_l, balanced, power_softmax (λ-GRPO), linear, relative_power, batch_power,
    balanced_power."""
    r: float = 1 / 9
    """How far one standard deviation of length moves h = 1 + r z. 1/9 (the paper's) keeps h > 0 for groups up to 81."""
    h_floor: float = 0.01
    """Smallest h (power_softmax) or 1 + λ r z (linear). If many responses are floored and λ < 0, also set min_ess."""
    alpha: float = 0.75
    """The exponent of delta_l. Its authors recommend 0.75 for mathematics and 1 for countdown."""
    balance: float = 0.5
    """The share of balanced_power's exponent that goes to the mean length of the responses with the same sign of A: at
    λ = −1, 0 is GRPO's weight per response, 1 Balanced Aggregation."""
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
        if not 0 <= self.balance <= 1:
            raise UserError(f"model.preference.balance is {self.balance}: choose a number from 0 to 1.")
        if self.max_length is not None and self.max_length < 1:
            raise UserError(
                f"model.preference.max_length is {self.max_length}: choose a positive number of tokens, or null."
            )


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

    spans_groups: bool = False
    """Whether a response's f depends on the other groups of the update."""
    needs_limit: bool = False
    """Whether f depends on the longest response allowed."""

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
    assert config.max_length is not None  # `LengthPreference` has checked
    return group.mean_length / config.max_length * group.active


def delta_l(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f ∝ ℓ^(−α)`, mean 1; α = 1 minimises the gradient's variance (ΔL normalisation, 2509.07558)."""
    return group.softmax(-config.alpha * group.positive.log())


def balanced(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = ℓ̄/ℓ̄_s`, ℓ̄_s the mean length in the group of the responses with this one's sign of A.

    A token mean over the better responses and one over the worse, each counted by its number of responses (Balanced
    Aggregation, 2605.04077). Errors: `ValueError` without advantages.
    """
    return group.mean_length / group.mean_length_of_sign() * group.active


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
    line = _line(group, lam, config)
    # A value on the floor keeps its slope; `clamp` drops it from torch 2.15 on.
    line = torch.where(line < config.h_floor, config.h_floor, line) * group.active
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


def batch_power(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = N ℓ^λ / Σ ℓ^λ` over all N responses of the update: a group of short responses gains weight as a short
    response does. λ = −1 is GRPO up to one factor for the whole update.
    """
    powers = (lam * group.positive.log()).exp() * group.active
    num_responses, scale = group.add_up(torch.stack([widen(group.active.sum()), powers.sum()])).unbind()
    return powers * num_responses / torch.where(num_responses > 0, scale, 1.0)


def batch_power_derivative(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """df/dλ = f · (ln ℓ − mean(f ln ℓ)), the mean over all responses of the update."""
    weights, logs = batch_power(group, lam, config), group.positive.log()
    num_responses, total = group.add_up(torch.stack([widen(group.active.sum()), (weights * logs).sum()])).unbind()
    return weights * (logs - total / num_responses.clamp(min=1))


def balanced_power(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """`f = b^λ Σ ℓ / Σ ℓ b^λ` over the group, b = ℓ^(1 − β) ℓ̄_s^β with β = `balance` and ℓ̄_s as in `balanced`.

    The group's tokens keep their total weight: Σ f ℓ = Σ ℓ. λ = 0 is DAPO; λ = −1 is GRPO at β = 0 and Balanced
    Aggregation at β = 1, each group with its own ℓ̄. Errors: `ValueError` without advantages.
    """
    shares = group.softmax(lam * _log_balanced_base(group, config) + group.positive.log())  # n f ℓ / Σ f ℓ
    return shares / group.positive * group_mean(group.positive, group.active)


def balanced_power_derivative(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """df/dλ = f · (ln b − mean(ln b)), the mean over the group's tokens as f weighs them."""
    weights, log_base = balanced_power(group, lam, config), _log_balanced_base(group, config)
    shares = weights * group.positive / group_mean(group.positive, group.active).clamp(min=1)
    return weights * (log_base - group_mean(shares * log_base, group.active))


def _log_balanced_base(group: GroupLengths, config: FamilyConfig) -> Tensor:
    return (1 - config.balance) * group.positive.log() + config.balance * group.mean_length_of_sign().log()


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
    "dr_grpo": Family("dr_grpo", dr_grpo, needs_limit=True),
    "delta_l": Family("delta_l", delta_l),
    "balanced": Family("balanced", balanced),
    "power_softmax": Family("lambda", power_softmax, power_softmax_derivative, _base_floored, _grpo_lambda_by_cv),
    "linear": Family("linear", linear, linear_derivative, _line_floored, _grpo_lambda_by_cv),
    "relative_power": Family(
        "relative_power", relative_power, relative_power_derivative, grpo_lambda=_grpo_lambda_of_power
    ),
    "batch_power": Family(
        "batch_power", batch_power, batch_power_derivative, grpo_lambda=_grpo_lambda_of_power, spans_groups=True
    ),
    "balanced_power": Family("balanced_power", balanced_power, balanced_power_derivative),
}
"""Every family by the name that `model.preference.family` takes."""
