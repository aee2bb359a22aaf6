"""The loss, one for every method: L = −Σ_i w_i S_i, w_i = f_i / Z_i, S_i the sum of response i's token surrogates.

GRPO, DAPO, Dr. GRPO and λ-GRPO differ in the numbers w_i alone; see `preference.py` for f and `normalisation.py` for Z.
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
    """Log-probabilities (nats) of the sampled tokens, each [n, L]; whatever stands outside the mask is never read."""

    policy: Tensor
    """Under the policy being trained; carries the gradient."""
    old: Tensor | None = None
    """Under the policy at the start of the updates; None means on-policy: the policy itself, detached."""
    ref: Tensor | None = None
    """Under the frozen reference; read only if kl_coef > 0."""
    sampler: Tensor | None = None
    """As the sampler reported them; read only by the importance-sampling correction and the statistics."""


class LossOutput(NamedTuple):
    """What one micro-batch gives."""

    loss: Tensor
    """[] −Σ_i w_i S_i, to be minimised; the losses of micro-batches add up to the loss of the update."""
    surrogates: Tensor
    """[n] S_i, detached: what λ's gradient needs (`preference_objective`)."""
    statistics: dict[str, Tensor]
    """[] each. Sums over tokens, except `ratio_min`, `ratio_max` and `sampler_gap_max`."""


def policy_loss(
    logprobs: TokenLogprobs, mask: Tensor, advantages: Tensor, weights: Tensor, config: SurrogateConfig
) -> LossOutput:
    """Loss of n responses, in float32 or as wide as the policy's log-probabilities, under any autocast.

    Shapes: logprobs and mask [n, L] (1 at response tokens, holes are fine), advantages [n], weights [n] = f / Z.
    Any split of a batch into calls gives the same sum: nothing in here counts or averages.
    """
    mask = mask.bool()
    policy, old, ref, sampler = _readable(logprobs, mask)
    log_ratio = policy - old
    if config.ratio_level == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, mask)
    sampler_weights = importance_weights(old, sampler, mask, config)
    tokens = token_surrogate(policy, old, ref, sampler_weights, advantages[:, None], config, log_ratio)
    surrogates = (tokens.value * mask).sum(-1)
    loss = -(weights.detach().to(surrogates.dtype) * surrogates).sum()
    return LossOutput(loss, surrogates.detach(), token_statistics(tokens, old, sampler, sampler_weights, mask))


def _readable(logprobs: TokenLogprobs, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Widen to float32 and blank the padding, which may hold anything, infinities included."""
    dtype = torch.promote_types(logprobs.policy.dtype, torch.float32)
    policy, old, ref, sampler = (
        None if values is None else values.to(dtype).masked_fill(~mask, 0.0) for values in logprobs
    )
    assert policy is not None
    return policy, policy.detach() if old is None else old.detach(), ref, sampler


def token_statistics(
    tokens: TokenSurrogate, old: Tensor, sampler: Tensor | None, sampler_weights: Tensor | None, mask: Tensor
) -> dict[str, Tensor]:
    """Sums over the tokens of `mask` (any shape), but for `ratio_min`, `ratio_max` and `sampler_gap_max`."""
    num_tokens = mask.sum()
    log_ratio = tokens.log_ratio.expand_as(mask).masked_fill(~mask, 0.0)
    # Blanked positions have ratio 1, so they never are an extreme that a real token's ratio would not reach.
    statistics = {
        "num_tokens": num_tokens,
        "clip_low": (tokens.flags.low & mask).sum(),
        "clip_high": (tokens.flags.high & mask).sum(),
        "clip_dual": (tokens.flags.dual & mask).sum(),
        "kl": (tokens.kl * mask).sum(),
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
