"""What users set about the length preference, `model.preference`, and which settings fit each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.correlation import CorrelationConfig
from lambda_grpo_pl.objective.families import FAMILIES, FamilyConfig

Learn = Literal["fixed", "surrogate", "validation", "correlation", "placebo"]
GRADIENT_RULES = ("surrogate", "validation")
"""The rules under which λ ascends an objective with an optimizer."""
LEARNABLE = tuple(name for name, family in FAMILIES.items() if family.has_lambda)
LARGEST_EXPONENT = 80.0
"""h^λ is at most exp(80): a finite float32, with room for the softmax above it."""
LARGEST_BOUND = 50
"""ℓ^50 of a million tokens is 1e300: a finite float64."""


@dataclass(kw_only=True)
class PreferenceConfig(FamilyConfig):
    """Which f weighs the lengths, and how its λ learns."""

    learn: Learn = "surrogate"
    """How λ learns: fixed; surrogate, by ascending the training objective (the paper); validation, the held-out one;
    correlation, from the correlation of length and advantage; placebo, as in the metrics of another run."""
    contextual: bool = False
    """One λ per prompt: λ + w·φ, φ the group's mean reward, length CV, log mean length and prompt length."""
    init: float = 0.0
    """λ at the start. 0 weighs all tokens alike."""
    bound: float = 5.0
    """Largest |λ|. Of 8 responses spread evenly over 200…1500 tokens, λ = 5 leaves an effective 5.6, λ = 9 2.2."""
    min_ess: float | None = None
    """Smallest effective sample size (Σf)²/Σf² as a share of the group; λ shrinks towards 0 for a group below it."""
    lr: float = 0.1
    """Learning rate of λ's own SGD (no momentum, no weight decay). A third party's value, not the authors'."""
    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)
    """The correlation rule's constants."""
    placebo: str | None = None
    """The metrics.csv of the run whose λ the placebo rule uses, update by update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn not in get_args(Learn):
            raise UserError(f"model.preference.learn is {self.learn!r}: choose one of {', '.join(get_args(Learn))}.")
        self._check_learning()
        if not 0 < self.lr < math.inf:
            raise UserError(f"model.preference.lr is {self.lr}: choose a positive number.")
        if not 0 < self.bound <= LARGEST_BOUND:
            raise UserError(
                f"model.preference.bound is {self.bound}: choose a number above 0, {LARGEST_BOUND} at most."
            )
        if not abs(self.init) <= self.bound:
            raise UserError(
                f"model.preference.init is {self.init}, outside ±{self.bound}: raise model.preference.bound."
            )
        if -self.bound * math.log(self.h_floor) > LARGEST_EXPONENT:
            raise UserError(
                f"model.preference.h_floor {self.h_floor} to the power −{self.bound} (model.preference.bound) "
                "overflows: raise h_floor, for example to 0.01, or lower the bound."
            )
        if self.min_ess is not None and not 0 < self.min_ess < 1:
            raise UserError(
                f"model.preference.min_ess is {self.min_ess}: choose a share of the group between 0 and 1, or null."
            )

    def _check_learning(self) -> None:
        family, learns = FAMILIES[self.family], self.learn != "fixed"
        if not family.has_lambda and (learns or self.contextual or self.min_ess is not None):
            raise UserError(
                f"model.preference.family is {self.family!r}, which has no λ: set model.preference.learn to fixed, "
                f"contextual to false and min_ess to null, or choose one of {', '.join(LEARNABLE)}."
            )
        if family.spans_groups and self.min_ess is not None:
            raise UserError(
                f"model.preference.min_ess shrinks λ group by group, but the family {self.family!r} weighs the whole "
                "update: set min_ess to null, or choose relative_power."
            )
        if self.contextual and not self.has_gradient:
            raise UserError(
                f"model.preference.contextual needs a gradient, but model.preference.learn is {self.learn}: set learn "
                "to surrogate or validation."
            )
        if self.learn == "correlation":
            self._check_correlation()
        if (self.learn == "placebo") != (self.placebo is not None):
            raise UserError(
                f"model.preference.learn is {self.learn} and model.preference.placebo {self.placebo}: set learn "
                "to placebo and placebo to the metrics.csv of a run, or placebo to null."
            )

    def _check_correlation(self) -> None:
        low, high = self.correlation.low, self.correlation.high
        if max(-low, high) > self.bound:
            raise UserError(
                f"model.preference.correlation lets λ move from {low} to {high}, outside ±{self.bound}: raise "
                "model.preference.bound, or narrow correlation.low and high."
            )
        if self.init != 0:
            raise UserError(
                f"model.preference.init is {self.init}, but the correlation rule sets λ at every update: set init to "
                "0, or model.preference.learn to another rule."
            )

    @property
    def has_gradient(self) -> bool:
        """Whether λ is a trained parameter with an optimizer."""
        return self.learn in GRADIENT_RULES
