"""The loss, one for every method: L = −Σ_i w_i S_i, w_i = f_i / Z_i, S_i the sum of response i's token surrogates.

GRPO, DAPO, Dr. GRPO and λ-GRPO differ only in the numbers w_i; see `families.py` for f and `token_count.py` for Z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.objective.surrogate import (
    SurrogateConfig,
    TokenSurrogate,
    importance_weights,
    sequence_log_ratio,
    token_surrogate,
)


class TokenLogprobs(NamedTuple):
    """Log-probabilities (nats) of the sampled tokens, all of one shape; nothing outside the mask is read."""

    policy: Tensor
    """Under the policy being trained; carries the gradient."""
    old: Tensor | None = None
    """Under the policy at the start of the updates; None means on-policy: the policy itself, detached."""
    ref: Tensor | None = None
    """Under the frozen reference; read only if kl_coef > 0."""
    sampler: Tensor | None = None
    """As the sampler reported them; read only by the importance-sampling correction and the statistics."""


class TokenTerms(NamedTuple):
    """What some tokens contribute to the loss."""

    loss: Tensor
    """[] −Σ w s over the tokens, to be minimised."""
    surrogates: Tensor
    """s of each token, in the tokens' shape, detached; 0 outside the mask."""
    statistics: dict[str, Tensor]
    """[] each. Sums over tokens, except `ratio_min`, `ratio_max` and `sampler_gap_max`."""


class LossOutput(NamedTuple):
    """What some responses contribute to the loss."""

    loss: Tensor
    """[] −Σ_i w_i S_i, to be minimised; the losses of micro-batches add up to the loss of the update."""
    surrogates: Tensor
    """[n] S_i, detached: what λ's gradient needs (`preference_objective`)."""
    statistics: dict[str, Tensor]
    """As in `TokenTerms`."""


def policy_loss(
    logprobs: TokenLogprobs, mask: Tensor, advantages: Tensor, weights: Tensor, config: SurrogateConfig
) -> LossOutput:
    """Loss of n responses, in float32 or as wide as the policy's log-probabilities, under any autocast.

    Shapes: logprobs and mask [n, L] (1 at response tokens, holes are fine), advantages [n], weights [n] = f / Z.
    Any split of a batch into calls gives the same sum: nothing here counts or averages.
    """
    loss, surrogates, statistics = token_terms(logprobs, mask.bool(), advantages[:, None], weights[:, None], config)
    return LossOutput(loss, surrogates.sum(-1), statistics)


def token_terms(
    logprobs: TokenLogprobs, mask: Tensor | None, advantages: Tensor, weights: Tensor, config: SurrogateConfig
) -> TokenTerms:
    """Terms of the loss, token by token: the only place where surrogate, weights and statistics come together.

    Shapes: logprobs and mask [n, L], or a flat chunk [m] of tokens with mask None (every token counts), as the chunked
    head needs it; advantages and weights broadcast against them. Errors: `ValueError` for a flat chunk unless
    `config.is_elementwise`, because the chunk does not say where responses begin.
    """
    if mask is None:
        if not config.is_elementwise:
            raise ValueError("A flat chunk of tokens cannot have sequence-level ratios or weights: pass [n, L].")
        mask = torch.ones_like(logprobs.policy, dtype=torch.bool)
    policy, old, ref, sampler = _readable(logprobs, mask)
    log_ratio = policy - old
    if config.ratio_level == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, mask)
    sampler_weights = importance_weights(old, sampler, mask, config)
    tokens = token_surrogate(policy, old, ref, sampler_weights, advantages, config, log_ratio)
    surrogates = tokens.value * mask
    loss = -(weights.detach().to(surrogates.dtype) * surrogates).sum()
    statistics = _token_statistics(tokens, old, sampler, sampler_weights, mask)
    return TokenTerms(loss, surrogates.detach(), statistics)


def _readable(logprobs: TokenLogprobs, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Widen to float32 and blank the padding, which may hold anything, infinities included."""
    dtype = torch.promote_types(logprobs.policy.dtype, torch.float32)
    policy, old, ref, sampler = (
        None if values is None else values.to(dtype).masked_fill(~mask, 0.0) for values in logprobs
    )
    assert policy is not None
    return policy, policy.detach() if old is None else old.detach(), ref, sampler


def _token_statistics(
    tokens: TokenSurrogate, old: Tensor, sampler: Tensor | None, sampler_weights: Tensor | None, mask: Tensor
) -> dict[str, Tensor]:
    """Sums over the tokens of `mask` (any shape), but for `ratio_min`, `ratio_max` and `sampler_gap_max`."""
    num_tokens = mask.sum()
    log_ratio = tokens.log_ratio.masked_fill(~mask, 0.0)
    # Blanked positions have ratio 1, so they are never an extreme that a real token's ratio would not reach.
    statistics = {
        "num_tokens": num_tokens,
        "clip_low": (tokens.flags.low & mask).sum(),
        "clip_high": (tokens.flags.high & mask).sum(),
        "clip_dual": (tokens.flags.dual & mask).sum(),
        "kl": tokens.kl.sum(),  # 0 at blanked positions
        "policy_shift": -log_ratio.sum(),
        "ratio_min": log_ratio.min().exp(),
        "ratio_max": log_ratio.max().exp(),
    }
    if sampler is not None:
        gap = (old - sampler).abs()
        statistics |= {"sampler_gap": gap.sum(), "sampler_gap_max": gap.max()}
    if sampler_weights is not None:
        statistics["sampler_weight"] = (sampler_weights * mask).sum()
    return statistics
