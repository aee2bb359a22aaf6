"""The token count Z that every response's surrogate is divided by, known before any forward pass.

J = Σ_i f_i S_i / Z_i. Z is counted once per optimizer step over all micro-batches and all ranks and then passed in, so
neither the micro-batch size nor the number of ranks changes the objective.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.group_lengths import Total, one_part
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, widen

Scope = Literal["global", "group"]


class TokenCount(NamedTuple):
    """Z and the mean length ℓ̄ over the very responses that Z sums over; both broadcast against [B, G]."""

    denominator: Tensor
    """[] (global) or [B, 1] (group) tokens, at least 1."""
    mean_length: Tensor
    """[] (global) or [B, 1] (group) tokens per response; 0 where there is no token."""
    total: Total = one_part
    """Adds over the parts of the update, as the count did."""


def count_tokens(
    lengths: Tensor,
    active: Tensor | None = None,
    scope: Scope = "global",
    reduce: Total = one_part,
) -> TokenCount:
    """Count the tokens that J is divided by.

    * `global`: Z = Σ ℓ over every active response of the update, on all ranks: the token-mean of DAPO (2503.14476).
    * `group`: Z_b = (Σ ℓ of prompt b) · (number of prompts): each prompt's own token-mean, prompts averaged, as the
      λ-GRPO paper writes it (2510.06870).

    Inactive responses count neither as tokens nor as responses, and a prompt without an active response is not counted.

    Shapes: lengths [B, G] tokens, active [B, G] bool; `reduce` adds a vector [3] over ranks and is called exactly once,
    whatever the scope. Errors: `UserError` for another scope.
    """
    if scope not in get_args(Scope):
        raise UserError(f"model.objective.token_count is {scope!r}: choose global or group.")
    mask = active_mask(lengths, active)
    tokens = widen(lengths) * mask
    sums = torch.stack([tokens.sum(), mask.sum(), mask.any(-1).sum()])
    tokens_all, responses_all, prompts_all = reduce(sums).unbind()
    if scope == "global":
        return TokenCount(tokens_all.clamp(min=1), tokens_all / responses_all.clamp(min=1), reduce)
    totals = tokens.sum(-1, keepdim=True).clamp(min=1)
    return TokenCount(totals * prompts_all.clamp(min=1), group_mean(tokens, mask), reduce)
