"""What a reward says about one response, and the two shapes a built-in reward may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from lambda_grpo_pl.errors import UserError

Status = Literal["ok", "no_answer", "failed"]


class Verdict(NamedTuple):
    """One response's outcome under one reward."""

    score: float
    """The reward, dimensionless; usually in [0, 1], penalties are negative."""
    correct: bool
    """Whether the response counts as right. Splits lengths on the dashboard and makes accuracy in evaluation."""
    extracted: str | None = None
    """The answer that was found in the response, or None."""
    status: Status = "ok"
    """`no_answer`: nothing to judge. `failed`: the verifier timed out or crashed, which is not the same as wrong."""
    extras: Mapping[str, float] = MappingProxyType({})
    """Further numbers to log, by name."""


Outcome = TypeVar("Outcome", Verdict, float)

LARGEST = float.fromhex("0x1.fffffep+127")
"""Largest float32: rewards become float32 tensors, where a larger number is infinite."""
FAILED = Verdict(0.0, False, None, "failed")
NO_ANSWER = Verdict(0.0, False, None, "no_answer")


class Reward(Protocol):
    """A pure function of a response's text and its dataset row.

    `calls` describes the other signatures. `example` is the row as the dataset has it
    (`answer` holds the gold) plus two reserved keys that the suite adds: `response_length`
    (int, tokens, end-of-sequence included) and `truncated` (bool, the length limit cut it off).
    """

    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict | float | bool:
        """Score one response."""
        ...


class Query(NamedTuple):
    """The part of a question that needs the isolated judge; equal queries of a batch are judged once."""

    gold: str
    answer: str


class Verifier(ABC):
    """A reward in two steps: a cheap one in this process, and one that may hang and therefore runs in the pool.

    `prepare` runs inline in linear time and settles what it can. What it cannot settle becomes a `Query`, and
    `judge(gold, answer)` runs in a worker that is killed when it overruns. The split is what makes groups cheap: 16
    responses to one prompt differ in every word of their reasoning and share a handful of answers.
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
        return choose_best([self._judge_here(item) for item in self.prepare_all(completion, example)])

    def prepare_all(self, completion: str, example: Mapping[str, Any]) -> list[Verdict | Query]:
        """Prepare a response for each gold that its row accepts."""
        return [self.prepare(completion, row) for row in split_golds(example)]

    def _judge_here(self, prepared: Verdict | Query) -> Verdict:
        if isinstance(prepared, Verdict):
            return prepared
        return judge_answer(self.judge(*prepared), prepared.answer)


def split_golds(example: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the row once for each gold that it accepts, as `answer`: several under `answer_list: any`."""
    golds = example.get("answers")
    return [{**example, "answer": gold} for gold in golds] if golds else [example]


def accept_any_gold(
    call: Callable[[Any, str, Mapping[str, Any]], Outcome],
) -> Callable[[Any, str, Mapping[str, Any]], Outcome]:
    """Let a reward's method, which compares with `example["answer"]`, return the best outcome over all golds."""

    @wraps(call)
    def compare(self: Any, completion: str, example: Mapping[str, Any]) -> Outcome:
        outcomes = [call(self, completion, row) for row in split_golds(example)]
        return max(outcomes, key=lambda outcome: outcome.score if isinstance(outcome, Verdict) else outcome)

    return compare


def choose_best(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the best verdict over several golds; without a right one, a failed one: it might have been right."""
    return max(verdicts, key=lambda verdict: (verdict.score, verdict.status == "failed"))


def judge_answer(correct: bool, answer: str) -> Verdict:
    """Return the verdict for an answer that was found and compared with the gold: 1 or 0."""
    return Verdict(float(correct), correct, answer)


def as_verdict(value: object, name: str = "") -> Verdict:
    """Read what the reward `name` returned for one response.

    A bool is right or wrong; a number is a score, right from 0.5 up; numpy scalars and one-element tensors count as
    numbers. A mapping has a `score`, may have `correct`, and its other numbers are logged by name. Raises `UserError`
    for anything else and for a score that is not finite: one NaN would reach every advantage of its group.
    """
    if isinstance(value, Verdict):
        fields = value._asdict()
    elif isinstance(value, Mapping) and "score" in value:
        extras = {key: value[key] for key in value if key not in ("score", "correct")}
        fields = {"score": value["score"], "extras": extras} | (
            {"correct": value["correct"]} if "correct" in value else {}
        )
    else:
        fields = {"score": value}
    score = as_number(fields["score"])
    extras = {key: as_number(extra) for key, extra in fields.get("extras", {}).items()}
    if score is None or not abs(score) <= LARGEST or None in extras.values():  # NaN compares false
        raise UserError(
            f"The reward {name or 'function'} returned {_abbreviate(value)}: return a bool, a finite float32, a dict "
            "with a 'score' and further numbers, or a Verdict."
        )
    return Verdict(**{**fields, "score": score, "correct": bool(fields.get("correct", score >= 0.5)), "extras": extras})


def as_number(value: object) -> float | None:
    """Return a bool, number, numpy scalar or one-element tensor as a float; None for anything else."""
    if not isinstance(value, Real) and hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # more than one element
            return None
    if not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _abbreviate(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
