"""The length preference: f [B, G] from the lengths of each group, with the one parameter λ that shapes it.

f depends on lengths alone, which are known before any forward pass, and a response's surrogate S_i is a scalar. So

    dJ/dλ = Σ_i (df_i/dλ) S_i / Z_i

is exact however a group is split over micro-batches or ranks: accumulate S_i, then call `preference_objective(...)`
once per optimizer step and let autograd go through f. That graph holds [B, G] numbers and no policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lambda_grpo_pl.objective.context import FEATURES, RunningMoments
from lambda_grpo_pl.objective.families import FAMILIES, GroupLengths
from lambda_grpo_pl.objective.group_math import active_mask, group_size, widen
from lambda_grpo_pl.objective.token_count import TokenCount

Learn = Literal["fixed", "surrogate", "validation"]
LEARNABLE = tuple(name for name, family in FAMILIES.items() if family.derivative is not None)
NUM_BISECTIONS = 40


@dataclass(kw_only=True)
class PreferenceConfig:
    """Which f weighs the lengths, and how its λ learns."""

    family: str = "power_softmax"
    """uniform (DAPO), grpo, dr_grpo, delta_l, power_softmax (λ-GRPO), linear, or relative_power."""
    learn: Learn = "surrogate"
    """How λ learns: fixed; surrogate, by ascending the training objective (the paper); validation, the held-out one."""
    contextual: bool = False
    """One λ per prompt: λ + w·φ, φ the group's mean reward, length CV, log mean length and prompt length."""
    init: float = 0.0
    """λ at the start. 0 weighs all tokens alike."""
    r: float = 1 / 9
    """How far one standard deviation of length moves h = 1 + r z. 1/9 (the paper's) keeps h > 0 for groups up to 81."""
    bound: float = 5.0
    """Largest |λ|. Of 8 responses spread evenly over 200…1500 tokens, λ = 5 leaves an effective 5.6, λ = 9 2.2."""
    min_ess: float | None = None
    """Smallest effective sample size (Σf)²/Σf² as a share of the group; λ shrinks towards 0 for a group below it."""
    alpha: float = 0.75
    """The exponent of delta_l: 0.75 for mathematics, 1 for countdown, say its authors."""
    max_length: int | None = None
    """L_max of dr_grpo in tokens; null takes the rollout's limit."""
    lr: float = 0.1
    """Learning rate of λ's own SGD (no momentum, no weight decay). Third-party value, not the authors'."""
    h_floor: float = 0.01
    """Smallest h (power_softmax) or 1 + λ r z (linear). Where it lifts much and λ falls, also set min_ess."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"preference.family is {self.family!r}: choose one of {', '.join(FAMILIES)}.")
        if self.learn not in get_args(Learn):
            raise ValueError(f"preference.learn is {self.learn!r}: choose one of {', '.join(get_args(Learn))}.")
        if self.family not in LEARNABLE and (self.learn != "fixed" or self.contextual or self.min_ess is not None):
            raise ValueError(
                f"The family {self.family!r} has no λ: set preference.learn to fixed, contextual to false and min_ess "
                f"to null, or choose one of {', '.join(LEARNABLE)}."
            )
        if self.contextual and self.learn == "fixed":
            raise ValueError("preference.contextual has nothing to learn w by: set preference.learn to surrogate.")
        for name in ("r", "bound", "h_floor", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"preference.{name} is {getattr(self, name)}: choose a positive number.")
        if abs(self.init) > self.bound:
            raise ValueError(f"preference.init {self.init} is outside ±{self.bound}: raise preference.bound.")
        if self.h_floor >= 1 or -self.bound * math.log(self.h_floor) > 80:
            raise ValueError(
                f"preference.h_floor {self.h_floor} to the power of the bound {self.bound} overflows, or is no floor: "
                "choose h_floor below 1, such as 0.01, and a smaller bound."
            )
        if self.min_ess is not None and not 0 < self.min_ess < 1:
            raise ValueError(
                f"preference.min_ess is {self.min_ess}: choose a share of the group between 0 and 1, or null."
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(
                f"preference.max_length is {self.max_length}: choose a positive number of tokens, or null."
            )


class LengthPreference(nn.Module):
    """f and its λ.

    λ is one float32 scalar; everything computed from it is float64, under any autocast. |λ| ≤ bound is kept by
    projection (`clamp_`, after the optimizer's step). Inside `forward` the bound is a straight-through clamp, which
    matters where the contextual λ + w·φ leaves it: f is taken at the bound, the gradient is f's slope there, so that w
    can come back.
    """

    def __init__(self, config: PreferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.family = FAMILIES[config.family]
        learns = config.learn != "fixed"
        self.lam = nn.Parameter(torch.tensor(float(config.init), dtype=torch.float32), requires_grad=learns)
        if config.contextual:
            self.w = nn.Parameter(torch.zeros(len(FEATURES), dtype=torch.float32), requires_grad=learns)
            self.moments = RunningMoments(len(FEATURES))

    def forward(
        self, lengths: Tensor, mean_length: Tensor, active: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Weigh every response, differentiable in λ (and w).

        Shapes: lengths [B, G] tokens, mean_length [] or [B, 1] tokens (`TokenCount.mean_length`), active [B, G] bool,
        features [B, K] from `context_features` → f [B, G] float64, 0 at inactive responses.
        Errors: `ValueError` if the preference is contextual and there are no features.
        """
        group = GroupLengths.of(lengths, mean_length, active)
        lam = self.effective_lambda(features)
        weights: Tensor = self.family.weights(group, self._scale(group, lam) * lam, self.config)
        return weights

    def derivative(
        self, lengths: Tensor, mean_length: Tensor, active: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """df/dλ in closed form, [B, G] float64, of the same arguments as `forward`; 0 for a family without λ."""
        group = GroupLengths.of(lengths, mean_length, active)
        lam = self.effective_lambda(features).detach()
        scale = self._scale(group, lam)
        if self.family.derivative is None:
            return torch.zeros_like(group.lengths)
        return scale * self.family.derivative(group, scale * lam, self.config)

    def effective_lambda(self, features: Tensor | None = None) -> Tensor:
        """λ, or λ + w·φ per prompt if contextual, within ±bound: [] or [B, 1] float64."""
        lam = widen(self.lam)
        if self.config.contextual:
            if features is None:
                raise ValueError("A contextual preference needs features [B, K]: pass context_features(...).")
            lam = lam + (self.moments.standardise(features) @ widen(self.w))[:, None]
        return lam + (lam.clamp(-self.config.bound, self.config.bound) - lam).detach()

    @torch.no_grad()
    def clamp_(self) -> bool:
        """Project λ back into ±bound after an optimizer's step; True if it is at the bound."""
        self.lam.clamp_(-self.config.bound, self.config.bound)
        return self.at_bound

    @property
    def at_bound(self) -> bool:
        """Whether a learning λ stands at its bound, where f is no longer what the objective asks for."""
        return self.lam.requires_grad and bool(self.lam.detach().abs() >= self.config.bound)

    @torch.no_grad()
    def update_moments(
        self,
        features: Tensor,
        reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
        active: Tensor | None = None,
    ) -> None:
        """Take one update's features [B, K] into φ's running moments, prompts without an active response left out.

        `reduce` adds a small vector over ranks; active [B, G] bool. Does nothing unless the preference is contextual.
        """
        if self.config.contextual:
            counts = active_mask(features, active).any(-1)
            self.moments.update(features, counts, reduce)

    @torch.no_grad()
    def _scale(self, group: GroupLengths, lam: Tensor) -> Tensor:
        """[] or [B, 1] share of λ that keeps a group's effective sample size above min_ess; a constant to autograd."""
        if self.config.min_ess is None:
            return torch.ones_like(lam)
        smallest = self.config.min_ess * group_size(group.active)

        def holds(scale: Tensor) -> Tensor:
            return effective_sample_size(self.family.weights(group, scale * lam, self.config)) >= smallest

        low, high = torch.zeros_like(smallest), torch.ones_like(smallest)
        whole = holds(high)
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            enough = holds(middle)
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        return torch.where(whole, 1.0, low)


def effective_sample_size(weights: Tensor) -> Tensor:
    """(Σf)²/Σf² of each group, [B, G] → [B, 1] responses; 0 for a group without an active response."""
    return weights.sum(-1, keepdim=True).square() / weights.square().sum(-1, keepdim=True).clamp(min=1e-30)


def preference_objective(
    preference: LengthPreference,
    surrogates: Tensor,
    lengths: Tensor,
    count: TokenCount,
    active: Tensor | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """J = Σ_i f_i(λ) S_i / Z_i, whose autograd is the exact dJ/dλ; call `(-J).backward()` once per optimizer step.

    J is this rank's part of the sum: with a count over all ranks, the parts (and their gradients) add up over ranks.
    The validation rule passes η⟨∇J_val, ∇θ S_i⟩ in place of S_i: J is linear in it (see docs/method.md).

    Shapes: surrogates [B, G] (the S_i, detached here), lengths [B, G], active [B, G], features [B, K] → [] float64.
    """
    weights: Tensor = preference(lengths, count.mean_length, active, features)
    return (weights * widen(surrogates.detach()) / count.denominator).sum()
