"""Responses as text, ended where the prompt template says, and their scores as tensors.

Samplers work on tokens, not on strings. A stop string that is one token ends a response in the sampler (`with_stops`);
any other stop string is applied here, after sampling. What is recorded and judged is therefore what an engine with stop
strings would have returned.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch

from lambda_grpo_pl.batch import Completions, Rewards
from lambda_grpo_pl.rewards import SuiteScores
from lambda_grpo_pl.sampling import SamplingSettings


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    @property
    def eos_token_id(self) -> Any:
        """Token that ends a text."""
        ...

    @property
    def pad_token_id(self) -> Any:
        """Token that fills up rows."""
        ...

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        ...

    def __call__(self, text: Any, *, add_special_tokens: bool = ...) -> Any:
        """Encode a text; the result holds `input_ids`."""
        ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = ...) -> Any:
        """Return the text of some tokens."""
        ...


class Responses(NamedTuple):
    """N responses, each cut at its first stop string."""

    texts: list[str]
    """N texts without special tokens and without the stop string."""
    lengths: list[int]
    """N lengths in tokens, including the tokens that ended the response."""
    truncated: list[bool]
    """N flags: the length limit ended the response, and no stop string came before."""


def read_responses(tokenizer: Tokenizer, completions: Completions, stops: Sequence[str] = ()) -> Responses:
    """Decode completions and cut each at the first of `stops`, which may be the text of a special token."""
    completions = Completions(*(field.cpu() for field in completions))
    texts, lengths = [], []
    truncated: list[bool] = completions.truncated.tolist()
    for row in range(len(completions.lengths)):
        ids = completions.tokens(row)
        num_kept = _tokens_to_stop(tokenizer, ids, stops)
        truncated[row] = truncated[row] and num_kept is None
        ids = ids[:num_kept]
        texts.append(_before(decode_response(tokenizer, ids), stops))
        lengths.append(len(ids))
    return Responses(texts, lengths, truncated)


def decode_response(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Return tokens as text without special tokens, which any file can hold.

    A question mark replaces half of a surrogate pair.
    """
    text = str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
    return text.encode("utf-8", "replace").decode()


def with_stops(settings: SamplingSettings, tokenizer: Tokenizer, stops: Sequence[str]) -> SamplingSettings:
    """Return `settings` that end responses at each stop string which is one token, such as `<|im_end|>`."""
    encoded = [(stop, tokenizer(stop, add_special_tokens=False)["input_ids"]) for stop in stops]
    tokens = [ids[0] for stop, ids in encoded if len(ids) == 1 and tokenizer.decode(ids) == stop]
    return replace(settings, stop_token_ids=(*settings.stop_token_ids, *tokens))


def join_responses(parts: Sequence[Responses]) -> Responses:
    """Put groups of responses one after another."""
    return Responses(*([item for part in column for item in part] for column in zip(*parts, strict=True)))


def apply_stops(completions: Completions, responses: Responses) -> Completions:
    """Return `completions` with the lengths and truncation of their `responses`."""
    device = completions.ids.device
    return completions._replace(
        lengths=torch.tensor(responses.lengths, dtype=torch.long, device=device),
        truncated=torch.tensor(responses.truncated, dtype=torch.bool, device=device),
    )


def as_rewards(scores: SuiteScores, device: torch.device) -> Rewards:
    """Return scores of N responses as tensors on `device`."""
    return Rewards(
        total=torch.tensor(scores.totals, dtype=torch.float32, device=device),
        correct=torch.tensor([verdict.correct for verdict in scores.verdicts], device=device),
        active=torch.tensor(scores.active, device=device),
        parts={name: torch.tensor(part, device=device) for name, part in scores.parts.items()},
        verdicts=tuple((verdict.status, verdict.extracted) for verdict in scores.verdicts),
    )


def _tokens_to_stop(tokenizer: Tokenizer, ids: list[int], stops: Sequence[str]) -> int | None:
    """Return how many tokens it takes to complete the first stop string, or None if there is none."""

    def has_stopped(num_tokens: int) -> bool:
        text = str(tokenizer.decode(ids[:num_tokens]))
        return any(stop in text for stop in stops)

    if not stops or not has_stopped(len(ids)):
        return None
    return bisect_left(range(len(ids)), True, key=has_stopped)


def _before(text: str, stops: Sequence[str]) -> str:
    ends = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(ends, default=len(text))]
