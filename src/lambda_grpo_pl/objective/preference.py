"""The length preference: f [B, G] from the lengths of each group, with the one parameter λ that shapes it.

f depends on lengths (the balanced families also on the sign of A), which are known before any forward pass, and a
response's surrogate S_i is a scalar. So

    dJ/dλ = Σ_i (df_i/dλ) S_i / Z_i

is exact however a group is split over micro-batches or ranks: accumulate S_i, then call `preference_objective(...)`
once per optimizer step and let autograd go through f. That graph holds [B, G] numbers and no policy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.context import FEATURES, RunningMoments
from lambda_grpo_pl.objective.correlation import LengthCorrelation
from lambda_grpo_pl.objective.families import FAMILIES
from lambda_grpo_pl.objective.group_lengths import GroupLengths, Total, one_part
from lambda_grpo_pl.objective.group_math import active_mask, group_size, widen
from lambda_grpo_pl.objective.preference_config import PreferenceConfig
from lambda_grpo_pl.objective.token_count import TokenCount

NUM_BISECTIONS = 40


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
        if self.family.needs_limit and config.max_length is None:
            raise UserError(
                f"model.preference.family is {config.family}, which reads the longest response allowed: set "
                "model.preference.max_length (or, in Python, LambdaGRPO's max_response_tokens)."
            )
        self.lam = nn.Parameter(torch.tensor(float(config.init)), requires_grad=config.has_gradient)
        if config.contextual:
            self.w = nn.Parameter(torch.zeros(len(FEATURES)))
            self.moments = RunningMoments(len(FEATURES))
        if config.learn == "correlation":
            self.correlation = LengthCorrelation(config.correlation)

    def forward(
        self,
        lengths: Tensor,
        mean_length: Tensor,
        active: Tensor | None = None,
        features: Tensor | None = None,
        advantages: Tensor | None = None,
        total: Total = one_part,
    ) -> Tensor:
        """Weigh every response, differentiable in λ (and w).

        Shapes: lengths [B, G] tokens, mean_length [] or [B, 1] tokens (`TokenCount.mean_length`), active [B, G] bool,
        features [B, K] from `context_features`, advantages [B, G] → f [B, G] float64, 0 at inactive responses. `total`
        (`TokenCount.total`) adds over ranks, for a family that weighs the whole update at once.
        Errors: `ValueError` if a contextual preference gets no features, or a balanced family no advantages.
        """
        group = GroupLengths.of(lengths, mean_length, active, advantages, total)
        lam = self.effective_lambda(features)
        weights: Tensor = self.family.weights(group, self._scale(group, lam) * lam, self.config)
        return weights

    def derivative(
        self,
        lengths: Tensor,
        mean_length: Tensor,
        active: Tensor | None = None,
        features: Tensor | None = None,
        advantages: Tensor | None = None,
        total: Total = one_part,
    ) -> Tensor:
        """df/dλ in closed form, [B, G] float64, of the same arguments as `forward`; 0 for a family without λ."""
        group = GroupLengths.of(lengths, mean_length, active, advantages, total)
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
        """Project λ back into ±bound after an optimizer step; returns `at_bound`."""
        self.lam.clamp_(-self.config.bound, self.config.bound)
        return self.at_bound

    @torch.no_grad()
    def set_(self, lam: Tensor | float) -> None:
        """Set λ, within ±bound: what a rule without a gradient does before an update."""
        self.lam.copy_(torch.as_tensor(lam)).clamp_(-self.config.bound, self.config.bound)

    def observe(
        self, lengths: Tensor, advantages: Tensor, active: Tensor | None = None, reduce: Total = one_part
    ) -> None:
        """Let the correlation rule set λ from an update's responses, [B, G] each; nothing under the other rules."""
        if self.config.learn == "correlation":
            self.set_(self.correlation.update(lengths, advantages, active, reduce))

    @property
    def method_name(self) -> str:
        """What tables call the method: the family's label, and for a λ how it is learned, e.g. `lambda_validation`.

        The paper's rule (`surrogate`) adds nothing: `lambda` is λ-GRPO.
        """
        label = self.family.label
        if not self.family.has_lambda:
            return label
        rule = "" if self.config.learn == "surrogate" else f"_{self.config.learn}"
        return label + "_contextual" * self.config.contextual + rule

    @property
    def at_bound(self) -> bool:
        """Whether a learning λ has reached its bound, beyond which the objective would still move it."""
        return self.lam.requires_grad and bool(self.lam.abs() >= self.config.bound)

    @torch.no_grad()
    def update_moments(
        self,
        features: Tensor,
        reduce: Total = one_part,
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
        unshrunk = holds(high)
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            held = holds(middle)
            low, high = torch.where(held, middle, low), torch.where(held, high, middle)
        return torch.where(unshrunk, 1.0, low)


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
    advantages: Tensor | None = None,
) -> Tensor:
    """J = Σ_i f_i(λ) S_i / Z_i, whose autograd is the exact dJ/dλ; call `(-J).backward()` once per optimizer step.

    J is this rank's part of the sum: with a count over all ranks, the parts (and their gradients) add up over ranks.
    The validation rule passes η⟨∇J_val, ∇θ S_i⟩ in place of S_i: J is linear in it (see docs/method.md).

    Shapes: surrogates (the S_i, detached here), lengths, active and advantages [B, G], features [B, K] → [] float64.
    """
    weights: Tensor = preference(lengths, count.mean_length, active, features, advantages, count.total)
    return (weights * surrogates.detach() / count.denominator).sum()
