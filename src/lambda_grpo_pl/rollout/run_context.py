"""What rollouts depend on besides the settings: the policy, the run, and the occasion that a seed is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lambda_grpo_pl.rollout.responses import Tokenizer

Key = tuple[str | int, ...]
"""Names the occasion of a rollout, such as `("train", 17)`; equal keys give equal seeds."""


class SampledPolicy(Protocol):
    """What the engine reads of a policy."""

    @property
    def model(self) -> nn.Module:
        """The transformers causal language model, or peft's wrapper around it: where the weights are."""
        ...

    @property
    def causal_lm(self) -> Any:
        """The transformers causal language model itself: its configuration."""
        ...

    @property
    def sequence_logprobs(self) -> Callable[[Sequence[Sequence[int]]], list[list[float]]]:
        """Token ids of each sequence → log-probability (nats, temperature 1) of each token after the first."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the engine is told about the run, once."""

    tokenizer: Tokenizer
    """The policy's."""
    stops: tuple[str, ...]
    """Strings that end a response to a training prompt, besides the end-of-sequence tokens."""
    seed: int
    """The run's seed."""
    rank: int
    """This process among those that train."""
    sync_tolerance: float | None = None
    """`rollout.sync_tolerance`: nats that the self-test accepts; None derives it from the types (`plan_probe`)."""
    context_length: int | None = None
    """Longest prompt plus response that will be requested, for `rollout.engine.max_model_len: null`."""
    trainer_dtype: torch.dtype = torch.float32
    """Type in which the policy computes its log-probabilities."""


def train_key(index: int) -> Key:
    """Return the key of training batch `index`."""
    return ("train", index)


def sampling_seed(seed: int, key: Key, rank: int) -> int:
    """Return a 32-bit seed that is a pure function of the run's seed, the occasion and the rank."""
    words = [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in key]
    return int(np.random.SeedSequence([seed, *words, rank]).generate_state(1, np.uint32)[0])
