"""What one update knows before its first forward pass: its groups, their token count, and how each response weighs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Groups
from lambda_grpo_pl.objective import (
    LengthPreference,
    LensConfig,
    TokenCount,
    context_features,
    count_tokens,
    lens_sums,
    lens_values,
    preference_objective,
    preference_statistics,
)
from lambda_grpo_pl.objective.group_lengths import Total
from lambda_grpo_pl.objective.token_count import Scope


class Weighting(NamedTuple):
    """f of one mini-batch, and what it was made from."""

    groups: Groups
    advantages: Tensor
    """[B, G] float32."""
    tokens: TokenCount
    features: Tensor
    """[B, K] what a contextual λ depends on."""
    f: Tensor
    """[B, G] float64."""

    @property
    def weights(self) -> Tensor:
        """[B, G] float64 f / Z: what a response's surrogate is multiplied by."""
        return self.f / self.tokens.denominator

    def statistics(self, preference: LengthPreference) -> dict[str, Tensor]:
        """Scalars about f on this rank (`preference_statistics`)."""
        groups = self.groups
        return preference_statistics(
            preference,
            self.f,
            groups.lengths,
            self.advantages,
            groups.correct,
            self.tokens,
            groups.active,
            self.features,
        )

    def look(self, lens: LensConfig, gains: Tensor | None) -> dict[str, Tensor]:
        """Scalars about what other preferences would do with this update on all ranks; none if the lens is off.

        `gains` [N] are the alignments of the whole rollout's rows, if held-out prompts were scored.
        """
        if not lens.is_on:
            return {}
        groups = self.groups
        aligned = None if gains is None else gains[groups.rows]
        sums = lens_sums(lens, self.weights, groups.lengths, self.advantages, groups.active, aligned)
        return {f"lens/{name}": value for name, value in lens_values(lens, self.tokens.total(sums)).items()}

    def objective(self, preference: LengthPreference, gains: Tensor) -> Tensor:
        """Σ f(λ) gains / Z with λ's gradient; gains [N] belong to the rows of the whole rollout."""
        groups = self.groups
        return preference_objective(
            preference, gains[groups.rows], groups.lengths, self.tokens, groups.active, self.features
        )


def weigh_groups(
    preference: LengthPreference, groups: Groups, advantages: Tensor, scope: Scope, total: Total
) -> Weighting:
    """Count the tokens, let a rule without a gradient set λ, and take f.

    Shapes: advantages [N] of the whole rollout. `total` adds a small tensor over ranks.
    """
    chosen = advantages[groups.rows]
    count = count_tokens(groups.lengths, groups.active, scope, total)
    features = context_features(groups.rewards, groups.lengths, groups.prompt_lengths, groups.active)
    preference.update_moments(features, total, groups.active)
    preference.observe(groups.lengths, chosen, groups.active, total)
    with torch.no_grad():
        f = preference(groups.lengths, count.mean_length, groups.active, features, chosen, total)
    return Weighting(groups, chosen, count, features, f)
