"""Building completions from rows and from groups, and checking that an engine returned what was requested."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from lambda_grpo_pl.batch import Completions

LARGEST_LOGPROB = 1e-3
"""Log-probabilities are at most 0, except for rounding."""


class InvalidSampleError(RuntimeError):
    """An engine returned invalid responses."""


def pad_responses(
    token_ids: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    truncated: Sequence[bool],
    pad_token_id: int,
) -> Completions:
    """Return N responses as tensors, on the CPU.

    Args:
        token_ids: N responses of ℓ tokens each.
        logprobs: N times ℓ log-probabilities in nats.
        truncated: N flags.
        pad_token_id: Fills the end of rows.

    Raises:
        InvalidSampleError: If a response has fewer or more log-probabilities than tokens.
    """
    for ids, values in zip(token_ids, logprobs, strict=True):
        if len(ids) != len(values):
            raise InvalidSampleError(f"The sampler returned {len(ids)} tokens, but {len(values)} log-probabilities.")
    rows = [torch.tensor(ids, dtype=torch.long) for ids in token_ids]
    return Completions(
        ids=pad_sequence(rows, batch_first=True, padding_value=pad_token_id),
        lengths=torch.tensor([len(row) for row in rows]),
        truncated=torch.tensor(truncated, dtype=torch.bool),
        logprobs=pad_sequence([torch.tensor(row, dtype=torch.float32) for row in logprobs], batch_first=True),
    )


def join_groups(groups: Sequence[Completions], pad_token_id: int) -> Completions:
    """Concatenate groups, padded to the longest response of all."""
    longest = max(int(group.lengths.max()) for group in groups)

    def fit(group: Completions) -> Completions:
        missing = longest - group.ids.shape[1]
        return group._replace(
            ids=pad(group.ids, (0, missing), value=pad_token_id),  # a negative number cuts
            logprobs=pad(group.logprobs, (0, missing)),
        )

    return Completions(*(torch.cat(field) for field in zip(*map(fit, groups), strict=True)))


def check_shapes(completions: Completions, num_responses: int, max_tokens: int) -> None:
    """Raise `InvalidSampleError` unless these are N responses of 1 to `max_tokens` tokens, whatever their values."""
    ids, lengths, truncated, logprobs = completions
    if not len(ids) == len(lengths) == len(truncated) == num_responses:
        raise InvalidSampleError(f"The sampler returned {len(lengths)} responses instead of {num_responses}.")
    if ids.ndim != 2 or ids.shape != logprobs.shape:
        raise InvalidSampleError(
            f"The sampler returned tokens of shape {list(ids.shape)}, but log-probabilities of shape "
            f"{list(logprobs.shape)}."
        )
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < 1 or longest > min(max_tokens, ids.shape[1]):
        raise InvalidSampleError(
            f"The sampler returned responses of {shortest} to {longest} tokens in {ids.shape[1]} columns, where 1 to "
            f"{max_tokens} tokens were requested."
        )


def check_completions(completions: Completions, num_responses: int, max_tokens: int) -> None:
    """Raise `InvalidSampleError` unless these are N responses of 1 to `max_tokens` tokens with valid values."""
    check_shapes(completions, num_responses, max_tokens)
    ids, lengths, _, logprobs = completions
    inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    valid = logprobs.isfinite() & (logprobs <= LARGEST_LOGPROB) & (ids >= 0)
    num_invalid = int((inside & ~valid).any(1).sum())
    if num_invalid:
        raise InvalidSampleError(
            f"The sampler returned log-probabilities that are not finite or positive, or negative token ids, in "
            f"{num_invalid} of {num_responses} responses."
        )
