"""What a reward says about one completion, and the two shapes a reward may have."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["ok", "no_answer", "failed"]


class Verdict(NamedTuple):
    """One completion's outcome under one reward."""

    score: float
    """The reward, dimensionless; usually in [0, 1], penalties are negative."""
    correct: bool
    """Does the completion count as right? Splits lengths on the dashboard and makes accuracy in evaluation."""
    extracted: str | None = None
    """The answer that was found in the completion, or None."""
    status: Status = "ok"
    """`no_answer`: nothing to judge. `failed`: the verifier timed out or crashed, which is not the same as wrong."""


FAILED = Verdict(0.0, False, None, "failed")
NO_ANSWER = Verdict(0.0, False, None, "no_answer")


class Reward(Protocol):
    """A pure function of a completion's text and its dataset row.

    `example` is the row as the dataset has it (`answer` holds the gold) plus two reserved keys that the suite adds:
    `response_length` (int, tokens, end-of-sequence included) and `truncated` (bool, the length limit cut it off).
    """

    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict | float | bool:
        """Score one completion."""
        ...


class Query(NamedTuple):
    """The part of a question that needs the isolated judge; equal queries of a batch are judged once."""

    gold: str
    answer: str


class Verifier(ABC):
    """A reward in two steps: a cheap one in this process, and one that may hang and therefore runs in the pool.

    `prepare` runs inline in linear time and settles what it can. What it cannot settle becomes a `Query`, and
    `judge(gold, answer)` runs in a worker that is killed when it overruns. The split is what makes groups cheap: 16
    completions of one prompt differ in every word of their reasoning and share a handful of answers.
    """

    @abstractmethod
    def prepare(self, completion: str, example: Mapping[str, Any]) -> Verdict | Query:
        """Extract the answer and settle the easy cases."""

    @abstractmethod
    def judge(self, gold: str, answer: str) -> bool:
        """Are the two equal? May take arbitrarily long on hostile text."""

    def warm_up(self) -> None:  # noqa: B027 - a verifier without heavy imports has nothing to do
        """Import and cache what `judge` needs; runs once per pool, before its first worker."""

    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Both steps in this process, without protection; the suite and `grade` use the pool instead."""
        prepared = self.prepare(completion, example)
        if isinstance(prepared, Verdict):
            return prepared
        return judged(self.judge(*prepared), prepared.answer)


def judged(correct: bool, answer: str) -> Verdict:
    """The verdict for an answer that was found and judged: 1 or 0."""
    return Verdict(float(correct), correct, answer)


def as_verdict(value: Verdict | float | bool) -> Verdict:
    """Read what a reward function returned.

    A bool is right or wrong; a number is a score, right from 0.5 up. A score that is not finite counts as a failure
    of the reward: one NaN would otherwise reach every advantage of its group.
    """
    if isinstance(value, Verdict):
        return value if math.isfinite(value.score) else FAILED
    score = float(value)
    return Verdict(score, score >= 0.5) if math.isfinite(score) else FAILED
