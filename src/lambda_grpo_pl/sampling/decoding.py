"""The parts of a decode loop: from logits to a token, the unfinished rows, and the report of finished groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.sampling.protocol import OnGroup
from lambda_grpo_pl.sampling_settings import SamplingSettings


def processed_logprobs(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Return the log-probabilities that are sampled from: temperature, then top-k, then top-p, renormalized.

    Args:
        logits: [n, V], any float type.
        settings: Greedy settings leave the logits as they are.

    Returns:
        [n, V] float32, −inf for tokens that were cut.
    """
    scores = logits.float()
    if settings.greedy:
        return scores.log_softmax(-1)
    scores = scores / settings.temperature
    if 0 < settings.top_k < scores.shape[-1]:
        smallest_kept = scores.topk(settings.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < smallest_kept, -torch.inf)
    if settings.top_p < 1:
        ranked, order = scores.sort(descending=True, dim=-1)
        probs = ranked.softmax(-1)
        mass_before = probs.cumsum(-1) - probs  # the token that crosses top_p stays, so the first always does
        cut = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, mass_before >= settings.top_p)
        scores = scores.masked_fill(cut, -torch.inf)
    return scores.log_softmax(-1)


def draw(logits: Tensor, settings: SamplingSettings, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: [n, V].
        settings: Greedy settings take the most likely token and ignore `uniform`.
        uniform: [n] in [0, 1).

    Returns:
        Tokens [n] int64 and their log-probabilities [n] float32 under `processed_logprobs`.
    """
    logprobs = processed_logprobs(logits, settings)
    if settings.greedy:
        tokens = logprobs.argmax(-1)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        total = cumulative[:, -1]
        # Strictly below the total, a token of probability 0 is never the first to exceed the threshold.
        threshold = torch.minimum(uniform * total, total * (1 - 2**-23))
        tokens = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


@dataclass(slots=True)
class RunningRows:
    """The key-value cache of n unfinished rows and the logits of their next token."""

    policy: nn.Module
    """A transformers causal language model, or peft's wrapper of one."""
    cache: Any
    """transformers' `Cache` of n rows."""
    attended: Tensor
    """[n, T] int64: 1 where the cache holds a token, 0 where it holds left padding."""
    logits: Tensor
    """[n, V] for the next token."""

    @classmethod
    def prefill(cls, policy: nn.Module, ids: Tensor, lengths: Tensor) -> Self:
        """Read prompts [n, P], left-padded, of `lengths` [n]."""
        longest = int(lengths.max())
        ids = ids[:, ids.shape[1] - longest :]
        attended = (torch.arange(longest, device=ids.device) >= longest - lengths[:, None]).long()
        positions = (attended.cumsum(1) - 1).clamp(min=0)
        output = policy(
            input_ids=ids, attention_mask=attended, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        return cls(policy, output.past_key_values, attended, output.logits[:, -1])

    def select(self, rows: Tensor) -> None:
        """Keep `rows` (indices, may repeat): drops finished rows, or copies each prompt to its group."""
        self.cache.reorder_cache(rows)
        self.attended = self.attended[rows]
        self.logits = self.logits[rows]

    def advance(self, tokens: Tensor) -> None:
        """Append one token [n] to each row."""
        positions = self.attended.sum(1, keepdim=True)
        self.attended = torch.cat([self.attended, torch.ones_like(positions)], dim=1)
        output = self.policy(
            input_ids=tokens[:, None],
            attention_mask=self.attended,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.logits = output.past_key_values, output.logits[:, -1]


class GroupListener:
    """Calls `on_group` once for each group of `result`, when its last row has ended."""

    def __init__(self, on_group: OnGroup, result: Completions, group_size: int) -> None:
        """Watch the groups of N = b·G rows that are being written into `result`."""
        self._on_group, self._result, self._group_size = on_group, result, group_size
        self._open = set(range(len(result.lengths) // group_size))

    def report_ended(self, rows: Tensor) -> None:
        """Report the groups that have no row among the unfinished `rows` [n]."""
        running = set((rows // self._group_size).tolist())
        for number in sorted(self._open - running):
            self._on_group(number, self._group(number))
        self._open &= running

    def _group(self, number: int) -> Completions:
        rows = slice(number * self._group_size, (number + 1) * self._group_size)
        ids, lengths, truncated, logprobs = (field[rows].cpu() for field in self._result)
        longest = int(lengths.max())
        return Completions(ids[:, :longest], lengths, truncated, logprobs[:, :longest])


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Turn dropout and gradient checkpointing off, and put each submodule's mode back afterwards."""
    trained = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
