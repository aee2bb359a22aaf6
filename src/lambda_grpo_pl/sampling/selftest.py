"""Does the engine compute what the policy computes? Checked after every sync, on a probe that costs milliseconds.

A sync that silently leaves a tensor stale trains on samples of another model. Where both sides compute in float32,
their log-probabilities agree to 1e-4 nats, and the largest gap over the probe is tested. A bfloat16 engine differs by
tenths of a nat on single tokens from rounding alone, so there the mean and the median gap over some hundred tokens are
tested, in units of what rounding alone gives: the policy is scored twice, in its own type and under autocast to the
engine's. Rounding alone reached 1.2 to 1.5 of these units with a vLLM engine on SmolLM2-135M, one stale matrix or
unsent adapter 1.9 and more. Since another model's rounding may reach more, the first sync is given some room, and later
ones are held to what the last ones needed (`UsualGap`). A policy that rounds in any case (FSDP2 in mixed precision) has
no units: its gaps are compared with one another in nats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from statistics import fmean, median
from typing import Protocol

import torch

from lambda_grpo_pl.sampling.probe import FLOAT32_TOLERANCE, PROBE_LENGTH
from lambda_grpo_pl.sampling.protocol import SyncReport

PolicyLogprobs = Callable[[Sequence[Sequence[int]]], list[list[float]]]
"""Token ids of each sequence → log p(token t | tokens before t) at temperature 1, for t = 1, 2, …"""

ROUNDING_FACTOR = 2.5
"""Largest gap below float32, in units of what rounding alone gives, before anything is known of the engine."""
USUAL_FACTOR = 1.35
"""Largest gap of a later sync, in terms of the usual one; right syncs vary by 5 %."""
LEAST_FACTOR = 1.8
"""In units of rounding, the limit is never below this."""
NUM_USUAL = 5
"""Syncs whose median is the usual gap: the last ones, since rounding changes while a policy learns."""
UNMEASURED_TOLERANCE = 0.25
"""Largest mean gap in nats of a first sync, where the policy rounds in any case and its rounding is not measured."""


class ProbedSampler(Protocol):
    """What the self-test needs of a sampler, or of one of the engines behind it."""

    @property
    def last_sync(self) -> SyncReport | None:
        """The report of the latest sync."""
        ...

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences, as `Sampler.probe` describes."""
        ...


class RememberedLogprobs:
    """A policy's log-probabilities (`PolicyLogprobs`) that are computed once and returned again after `rewind`.

    So an engine can be tested later, when the policy has changed or the other ranks are busy.
    """

    def __init__(self, policy_logprobs: PolicyLogprobs) -> None:
        """Call `policy_logprobs` for what is not known yet."""
        self._compute = policy_logprobs
        self._results: list[list[list[float]]] = []
        self._position = 0

    def rewind(self) -> None:
        """Let the next calls return the same results again, from the first one on."""
        self._position = 0

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the next result."""
        if self._position == len(self._results):
            self._results.append(self._compute(sequences))
        self._position += 1
        return self._results[self._position - 1]


class SyncError(RuntimeError):
    """The engine's log-probabilities are not the policy's."""


class UsualGap:
    """How far an engine in bfloat16 is from the policy when all is well: learned from a run's last syncs.

    Gaps are in units of what rounding alone gives, or in nats where that is not measured. A resumed run learns anew.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._in_units, self._in_nats = (deque[float](maxlen=NUM_USUAL) for _ in range(2))

    def find_limit(self, unit: float) -> float:
        """Return the largest gap to accept, in nats; `unit` is what rounding alone gives, 0 if that is not measured."""
        if unit:
            return unit * _limit(self._in_units, ROUNDING_FACTOR, LEAST_FACTOR)
        return _limit(self._in_nats, UNMEASURED_TOLERANCE, FLOAT32_TOLERANCE)

    def add(self, gap: float, unit: float) -> None:
        """Learn from a sync that was accepted with this gap, in nats."""
        if unit:
            self._in_units.append(gap / unit)
        else:
            self._in_nats.append(gap)


def check_sync(
    sampler: ProbedSampler,
    policy_logprobs: PolicyLogprobs,
    sequences: Sequence[Sequence[int]],
    tolerance: float | None,
    rounding: torch.dtype | None = None,
    usual: UsualGap | None = None,
) -> float:
    """Return the gap in nats between the sampler's and the policy's log-probabilities.

    Args:
        sampler: After `sync`.
        policy_logprobs: The policy's own.
        sequences: Token ids to score.
        tolerance: See `SyncProbe`.
        rounding: See `SyncProbe`. With None the gap is the largest of a token; otherwise it is the largest mean of a
            block of the probe (`_blocks`), and medians are tested too.
        usual: What earlier syncs of this engine needed; learns from this one.

    Raises:
        SyncError: If a tensor was not sent, or the gap exceeds the tolerance or is not a number. The message tells
            tensors that were not sent from a model that the engine computes differently.
    """
    policy = policy_logprobs(sequences)
    gaps = _gaps(sampler.probe(sequences), policy)
    if sampler.last_sync is not None and sampler.last_sync.missing:
        raise SyncError(_diagnosis(sampler, gaps, f"up to {_largest([gap for row in gaps for gap in row]):.3g} nats"))
    if rounding is None:
        assert tolerance is not None
        worst = _largest([gap for row in gaps for gap in row])
        if not worst <= tolerance:
            raise SyncError(_diagnosis(sampler, gaps, f"{worst:.3g} nats (tolerance {tolerance:g})"))
        return worst
    usual = UsualGap() if usual is None else usual
    noise = [] if tolerance is not None else _rounding_noise(policy_logprobs, sequences, policy, rounding)
    unit, middle_unit = (_measured(_largest_average(noise, average)) for average in (fmean, median))
    worst, middle = (_largest_average(gaps, average) for average in (fmean, median))
    limit = usual.find_limit(unit) if tolerance is None else tolerance
    if not worst <= limit:
        raise SyncError(_diagnosis(sampler, gaps, f"{worst:.3g} nats a token on average (tolerance {limit:.3g})"))
    if middle_unit and not middle <= (limit := ROUNDING_FACTOR * middle_unit):
        raise SyncError(_diagnosis(sampler, gaps, f"{middle:.3g} nats in the median (tolerance {limit:.3g})"))
    usual.add(worst, unit)
    return worst


def _gaps(ours: list[list[float]], others: list[list[float]]) -> list[list[float]]:
    return [[abs(a - b) for a, b in zip(*rows, strict=True)] for rows in zip(ours, others, strict=True)]


def _largest(values: Sequence[float]) -> float:
    """Return the maximum, or NaN if there is one."""
    return max(values, key=lambda value: (value != value, value))


def _blocks(gaps: list[list[float]]) -> list[list[float]]:
    """Split the probe into the parts that are averaged: short sequences together, a long one into two halves.

    The second half of a sequence of twice the window is out of its first token's sight.
    """
    short = [gap for row in gaps if len(row) < 2 * PROBE_LENGTH for gap in row]
    halves = [
        half for row in gaps if len(row) >= 2 * PROBE_LENGTH for half in (row[: len(row) // 2], row[len(row) // 2 :])
    ]
    return [block for block in (short, *halves) if block]


def _rounding_noise(
    policy_logprobs: PolicyLogprobs,
    sequences: Sequence[Sequence[int]],
    exact: list[list[float]],
    dtype: torch.dtype,
) -> list[list[float]]:
    """Return the gaps that computing in `dtype` alone makes, on the policy's own device."""
    with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=dtype):
        return _gaps(policy_logprobs(sequences), exact)


def _largest_average(gaps: list[list[float]], average: Callable[[Sequence[float]], float]) -> float:
    """Return the largest average of a block, 0 without any."""
    return _largest([average(block) for block in _blocks(gaps)] or [0.0])


def _measured(rounding: float) -> float:
    """Return 0 for rounding that is too small to be seen: the policy rounds in both of its types, or in neither."""
    return rounding if rounding > FLOAT32_TOLERANCE else 0.0


def _limit(gaps: Collection[float], first: float, least: float) -> float:
    """Return `first` while no gap is known, and never more; otherwise at least `least`."""
    return min(first, max(least, USUAL_FACTOR * median(gaps))) if gaps else first


def _diagnosis(sampler: ProbedSampler, gaps: list[list[float]], gap: str) -> str:
    report = sampler.last_sync
    head = f"After the weight sync the sampler's log-probabilities differ from the policy's by {gap}."
    if report is None:
        return f"{head} No sync has run yet."
    if report.missing:
        names = ", ".join(report.missing[:10]) + (", …" if len(report.missing) > 10 else "")
        return (
            f"{head} These {len(report.missing)} tensors were never sent, so the sampler computes with stale ones: "
            f"{names}. Set rollout.sampler to transformers."
        )
    longest = max(gaps, key=len)
    quarter = max(1, len(longest) // 4)
    early, late = fmean(longest[:quarter]), fmean(longest[-quarter:])
    if len(longest) >= 2 * PROBE_LENGTH and late > 3 * early:
        return (
            f"{head} All {len(report.sent)} tensors were sent, and the gap grows with the position in the text (from "
            f"{early:.2g} to {late:.2g} nats): the sampler computes sliding windows or rotary embeddings differently. "
            "Set rollout.sampler to transformers, or keep responses shorter than the window."
        )
    return (
        f"{head} All {len(report.sent)} tensors were sent. At a run's first sync this means that the sampler computes "
        "this model differently: set rollout.sampler to transformers. At a later sync it means that weights changed "
        "which were not sent. If the sampler's type is coarser than the policy's, set rollout.engine.dtype to the "
        "policy's type, or raise rollout.sync_tolerance to accept the mismatch."
    )
