"""Does the engine compute what the policy computes? Asked after every sync, on a probe that costs milliseconds.

A sync that silently leaves a tensor stale trains on samples of another model. Comparing the log-probabilities of two
short sequences finds that at once, whatever the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lambda_grpo_pl.sampling.protocol import Sampler

PolicyLogprobs = Callable[[Sequence[Sequence[int]]], list[list[float]]]
"""Token ids of each sequence → log p(token t | tokens before t) at temperature 1, for t = 1, 2, …"""


class SyncError(RuntimeError):
    """The engine's log-probabilities are not the policy's."""


def probe_sequences(vocab_size: int, length: int = 16) -> list[list[int]]:
    """Return two sequences [2, `length`] that spread over the vocabulary, the same in every run."""
    stride = max(1, int(vocab_size * 0.618))  # the golden ratio: the most even spread for any length
    return [[(start + stride * t) % vocab_size for t in range(length)] for start in (0, vocab_size // 2)]


def check_sync(
    sampler: Sampler, policy_logprobs: PolicyLogprobs, sequences: Sequence[Sequence[int]], tolerance: float
) -> float:
    """Return the largest difference in nats between the sampler's and the policy's log-probabilities.

    Args:
        sampler: After `sync`.
        policy_logprobs: The policy's own, in the training precision.
        sequences: What to score, `probe_sequences(vocab_size)` for instance.
        tolerance: Largest difference allowed, in nats: 1e-3 where both compute in float32, about 0.1 in bfloat16.

    Raises:
        SyncError: If it is exceeded (or is not a number); the message names the tensors that were not sent.
    """
    pairs = zip(sampler.probe(sequences), policy_logprobs(sequences), strict=True)
    differences = [abs(a - b) for engine, policy in pairs for a, b in zip(engine, policy, strict=True)]
    worst = max(differences, key=lambda difference: (difference != difference, difference))
    if not worst <= tolerance:
        raise SyncError(_diagnosis(sampler, worst, tolerance))
    return worst


def _diagnosis(sampler: Sampler, worst: float, tolerance: float) -> str:
    report = sampler.last_sync
    head = f"After the weight sync the sampler's log-probabilities differ from the policy's by {worst:.3g} nats"
    if report is None:
        return f"{head} (tolerance {tolerance:g}): no sync has run yet."
    missing = ", ".join(report.missing) or "none"
    return (
        f"{head} (tolerance {tolerance:g}). {len(report.sent)} tensors were sent in this sync; never sent: {missing}. "
        "Tied embeddings need lm_head.weight sent as well. If nothing is missing, the engine's dtype is coarser than "
        "the policy's: set it to the policy's, or raise the tolerance if you accept the mismatch."
    )
