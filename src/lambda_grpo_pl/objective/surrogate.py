"""The surrogate of one token: clipped ratio times advantage, minus β times a KL estimate.

    s_t = w_t · min(ρ_t A, clip(ρ_t, 1 − ε_low, 1 + ε_high) A) − β · kl_t,      ρ_t = exp(logπ_θ − logπ_old)

Elementwise: any shape works ([n, L], or a flat chunk [m] inside a fused head). What mixes the tokens of a response,
the sequence-level ratio and the importance weights, is at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError

Level = Literal["token", "sequence"]
KLEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["none", "truncate", "mask"]

KEY = "model.objective.surrogate"
"""Where users set `SurrogateConfig`."""
LOG_LIMIT = 80.0
"""exp(80) ≈ 5.5e34 times an advantage of a thousand is still a finite float32. Log-ratios are clamped only above it."""


@dataclass(kw_only=True)
class SurrogateConfig:
    """The policy-gradient part of the objective: clip, KL, and the correction for the sampler's log-probabilities."""

    clip_low: float = 0.2
    """ε_low: the ratio is clipped below at 1 − ε_low."""
    clip_high: float = 0.2
    """ε_high: the ratio is clipped above at 1 + ε_high. DAPO's clip-higher is 0.28."""
    dual_clip: float | None = None
    """c: where the advantage is negative, the ratio is capped at c (dual-clip PPO, 1912.09729). Called clip_ratio_c in
    verl and delta in TRL. Null: no cap."""
    ratio_level: Level = "token"
    """One ratio per token, or one per response: the geometric mean of its tokens' ratios (GSPO, 2507.18071)."""
    kl_coef: float = 0.0
    """β, the weight of the KL term. At 0 no reference model is loaded."""
    kl_estimator: KLEstimator = "k3"
    """k1 = −d, k2 = d²/2, k3 = exp(d) − d − 1, with d = logπ_ref − logπ_θ (Schulman, Approximating KL Divergence)."""
    kl_correction: bool = False
    """Multiply the estimate by π_θ/π_old, which makes its value and gradient unbiased off-policy (DeepSeek-V3.2)."""
    is_correction: Correction = "none"
    """Weigh tokens by π_old/π_sampler: no weight, truncated at is_cap, or dropped above is_cap."""
    is_level: Level = "token"
    """One importance weight per token, or one per response: the product of its tokens' weights."""
    is_cap: float = 2.0
    """The cap on importance weights."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("ratio_level", get_args(Level)),
            ("kl_estimator", get_args(KLEstimator)),
            ("is_correction", get_args(Correction)),
            ("is_level", get_args(Level)),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{KEY}.{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if not 0 < self.clip_low <= 1:
            raise UserError(f"{KEY}.clip_low is {self.clip_low}: choose a number above 0 and at most 1.")
        if not self.clip_high > 0:
            raise UserError(f"{KEY}.clip_high is {self.clip_high}: choose a positive number.")
        if self.dual_clip is not None and not self.dual_clip >= 1 + self.clip_high:
            raise UserError(f"{KEY}.dual_clip is {self.dual_clip}: it must be at least 1 + clip_high, or null.")
        if not self.kl_coef >= 0:
            raise UserError(f"{KEY}.kl_coef is {self.kl_coef}: choose 0 or a positive number.")
        if not self.is_cap > 0:
            raise UserError(f"{KEY}.is_cap is {self.is_cap}: choose a positive number.")

    @property
    def is_elementwise(self) -> bool:
        """Whether a token's surrogate depends on that token alone, so that a chunk of tokens can be differentiated."""
        weighs_sequences = self.is_correction != "none" and self.is_level == "sequence"
        return self.ratio_level == "token" and not weighs_sequences


class ClipFlags(NamedTuple):
    """Which tokens the clip holds back (their surrogate has no gradient); bool, in the shape of the tokens."""

    low: Tensor
    """A < 0 and ρ < 1 − ε_low."""
    high: Tensor
    """A > 0 and ρ > 1 + ε_high."""
    dual: Tensor
    """A < 0 and ρ > c; all False without a dual clip."""


class TokenSurrogate(NamedTuple):
    """`token_surrogate`'s result; every field in the shape of the tokens."""

    value: Tensor
    """s_t, to be raised."""
    kl: Tensor
    """The KL estimate (nats) before β, detached; 0 without a reference."""
    log_ratio: Tensor
    """logπ_θ − logπ_old (nats) as the clip saw it, detached."""
    flags: ClipFlags
    """What was clipped."""


def token_surrogate(
    policy: Tensor,
    old: Tensor | None,
    ref: Tensor | None,
    sampler_weights: Tensor | None,
    advantages: Tensor,
    config: SurrogateConfig,
    log_ratio: Tensor | None = None,
) -> TokenSurrogate:
    """One token's surrogate from log-probabilities (nats) of one shape, differentiable in `policy`.

    `old` None means on-policy (ρ = 1, with a gradient); `ref` is read only if kl_coef > 0; `sampler_weights` come from
    `importance_weights`; `advantages` broadcast. A `log_ratio` replaces policy − old in the clip: the sequence level.
    Errors: `ValueError` if kl_coef > 0 and there is no reference.
    """
    policy = policy.to(torch.promote_types(policy.dtype, torch.float32))
    old = policy.detach() if old is None else old.to(policy.dtype)
    log_ratio = policy - old if log_ratio is None else log_ratio
    value, flags = clipped_surrogate(log_ratio, advantages.to(policy.dtype), config)
    value = value if sampler_weights is None else value * sampler_weights
    kl = torch.zeros_like(value)
    if config.kl_coef > 0:
        if ref is None:
            raise ValueError(f"{KEY}.kl_coef is above 0, but there are no reference log-probabilities: pass `ref`.")
        kl = kl_penalty(policy, ref, old, config)
        value = value - config.kl_coef * kl
    return TokenSurrogate(value, kl.detach(), log_ratio.detach(), flags)


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, config: SurrogateConfig) -> tuple[Tensor, ClipFlags]:
    """min(ρA, clip(ρ)A), and max(·, cA) where A < 0 under a dual clip; any two shapes that broadcast."""
    ratio = log_ratio.clamp(max=LOG_LIMIT).exp()
    low, high = 1 - config.clip_low, 1 + config.clip_high
    cap = float("inf") if config.dual_clip is None else config.dual_clip
    # Capping ρ is the dual clip: with A > 0 the other clip binds first, since c ≥ 1 + ε_high.
    value = torch.min(ratio.clamp(max=cap) * advantages, ratio.clamp(low, high) * advantages)
    negative = advantages < 0
    return value, ClipFlags(negative & (ratio < low), (advantages > 0) & (ratio > high), negative & (ratio > cap))


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor, config: SurrogateConfig) -> Tensor:
    """Estimate KL(π_θ ‖ π_ref) of each token in nats from log-probabilities of one shape."""
    distance = ref_logprobs.to(logprobs.dtype) - logprobs
    if config.kl_estimator == "k1":
        estimate = -distance
    elif config.kl_estimator == "k2":
        estimate = distance.square() / 2
    else:
        estimate = distance.clamp(max=LOG_LIMIT).exp() - distance - 1
    if config.kl_correction:
        estimate = estimate * (logprobs - old_logprobs).clamp(max=LOG_LIMIT).exp()
    return estimate


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Mean log-ratio (nats) of each response's tokens, [n, L] → [n, 1]; 0 for an empty one (GSPO, 2507.18071)."""
    num_tokens = mask.sum(-1, keepdim=True).clamp(min=1)
    return (log_ratio * mask).sum(-1, keepdim=True) / num_tokens


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor | None, mask: Tensor, config: SurrogateConfig
) -> Tensor | None:
    """Weights π_old/π_sampler that correct for a sampler whose log-probabilities differ from the trainer's, detached.

    Shapes: [n, L] nats, mask [n, L] → [n, L] (token level) or [n, 1] (sequence level: the product over the tokens), or
    None when is_correction is "none". Errors: `UserError` without the sampler's log-probabilities.
    """
    if config.is_correction == "none":
        return None
    if sampler_logprobs is None:
        raise UserError(
            f"{KEY}.is_correction is {config.is_correction}, which needs the sampler's log-probabilities: pass "
            "them, or set it to none."
        )
    log_weights = (old_logprobs - sampler_logprobs.to(old_logprobs.dtype)).detach() * mask
    if config.is_level == "sequence":
        log_weights = log_weights.sum(-1, keepdim=True)
    weights = log_weights.clamp(max=LOG_LIMIT).exp()
    if config.is_correction == "truncate":
        return weights.clamp(max=config.is_cap)
    return torch.where(weights > config.is_cap, 0.0, weights)
