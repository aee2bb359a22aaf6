"""What the self-test after a sync scores (the probe), and how far the sampler may be from the policy on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

FLOAT32_TOLERANCE = 1e-3
"""Largest gap of a token in nats where both sides compute in float32."""
PROBE_LENGTH = 128
NUM_SEQUENCES, NUM_ROUNDED = 2, 8
"""Sequences of the probe in float32, and below, where an average over a thousand tokens varies by 5 %."""


class SyncProbe(NamedTuple):
    """What `check_sync` compares and how far it may differ: pass it as `check_sync(sampler, logprobs, *probe)`."""

    sequences: list[list[int]]
    """Token ids to score."""
    tolerance: float | None
    """In nats; None derives it from what rounding alone gives."""
    rounding: torch.dtype | None
    """The coarser type of the two sides, or None if both compute in float32."""


def plan_probe(
    vocab_size: int,
    engine_dtype: torch.dtype,
    trainer_dtype: torch.dtype,
    max_length: int | None = None,
    window: int | None = None,
    tolerance: float | None = None,
) -> SyncProbe:
    """Return the probe for these types.

    Args:
        vocab_size: Ids are spread over the vocabulary.
        engine_dtype: Type the sampler computes in.
        trainer_dtype: Type the policy computes its log-probabilities in.
        max_length: Longest sequence the engine scores (its `max_model_len` − 1).
        window: Position at which the model's attention or rotary embedding changes (`context_switch`): adds a sequence
            of twice that length.
        tolerance: `rollout.sync_tolerance`. In float32 the largest gap of a token (None: 1e-3), otherwise the mean gap
            over the probe (None: 2.5 times what rounding alone gives, or less once some syncs have shown how much).
    """
    lowest = min((engine_dtype, trainer_dtype), key=lambda dtype: torch.finfo(dtype).bits)
    rounding = None if lowest == torch.float32 else lowest
    limit = PROBE_LENGTH + (0 if window is None else 2 * window) if max_length is None else max_length
    number = NUM_SEQUENCES if rounding is None else NUM_ROUNDED
    sequences = probe_sequences(vocab_size, min(PROBE_LENGTH, limit), number)
    if window is not None:
        sequences += probe_sequences(vocab_size, min(2 * window, limit), 1)
    if tolerance is None and rounding is None:
        tolerance = FLOAT32_TOLERANCE
    return SyncProbe(sequences, tolerance, rounding)


def context_switch(config: Any) -> int | None:
    """Return the last position before a transformers `config` computes differently, or None if it never does.

    That is the longest sliding window, or the length at which rotary frequencies switch.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    layers = rope.values() if rope and all(isinstance(value, dict) for value in rope.values()) else (rope,)
    slides = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    switches = [layer.get("original_max_position_embeddings") for layer in layers]
    found = [int(value) for value in (slides, *switches) if value]
    return max(found) if found else None


def probe_sequences(vocab_size: int, length: int = 16, number: int = NUM_SEQUENCES) -> list[list[int]]:
    """Return sequences [`number`, `length`] that spread over the vocabulary, the same in every run."""
    stride = max(1, int(vocab_size * 0.618))  # the golden ratio: the most even spread for any length
    starts = (vocab_size * part // number for part in range(number))
    return [[(start + stride * t) % vocab_size for t in range(length)] for start in starts]
