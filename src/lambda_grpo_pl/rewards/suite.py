"""Several weighted rewards over a batch of completions: cheap ones inline, the ones that may hang in the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

from lambda_grpo_pl.rewards.pool import Call, PoolConfig, VerifierPool
from lambda_grpo_pl.rewards.registry import build
from lambda_grpo_pl.rewards.verdict import FAILED, Query, Verdict, Verifier, as_verdict, judged

Row = Mapping[str, Any]
"""A dataset row with `response_length` and `truncated`."""
Columns = Mapping[int, list[Verdict]]
"""Number of a reward in the suite → its verdicts, one a row."""


@dataclass(kw_only=True)
class RewardSpec:
    """One reward and its weight in the total."""

    name: str
    """A registered reward (`math`, `format_think`, `overlong`, …) or a dotted path to your own function or class."""
    weight: float = 1.0
    """What its score is multiplied by in the total; 0 logs it without training on it."""
    params: dict[str, Any] = field(default_factory=dict)
    """Its parameters: a class's constructor arguments, or keyword arguments of a function."""
    label: str = ""
    """Its name on the dashboard; by default the last part of `name`."""
    isolated: bool = False
    """Run it in the verifier pool, under its time-out: for your own function that may hang. `math` always does."""

    def __post_init__(self) -> None:
        self.label = self.label or self.name.rpartition(".")[2]


class SuiteScores(NamedTuple):
    """What N completions earned, in the order they came."""

    totals: list[float]
    """N weighted sums of the parts: what trains."""
    parts: dict[str, list[float]]
    """Label → N scores, unweighted."""
    verdicts: list[Verdict]
    """N verdicts of the first reward, the task's."""
    active: list[bool]
    """N: False leaves the response out of the loss: failed under `exclude`, truncated under `exclude_truncated`."""
    num_failed: int
    """Completions on which some reward timed out or crashed."""
    num_no_answer: int
    """Completions in which the first reward found no answer."""


class RewardSuite:
    """Score completions with the rewards of a YAML list; the first is the task's and decides what counts as correct.

    Example::

        suite = RewardSuite([RewardSpec(name="math"), RewardSpec(name="format_think", weight=0.1)])
        suite.score(["… \\\\boxed{4}"], [{"answer": "4"}], lengths=[17], truncated=[False]).totals  # [1.0]

    Args:
        specs: the rewards, the task's first.
        pool: the isolated workers' settings; workers start with the first answer that needs one.
        on_failure: a failed verifier scores 0 (`zero`), or takes its response out of the loss (`exclude`).
        exclude_truncated: take truncated responses out of the loss (DAPO's overlong filtering).
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        pool: PoolConfig | None = None,
        on_failure: Literal["zero", "exclude"] = "zero",
        exclude_truncated: bool = False,
    ) -> None:
        labels = [spec.label for spec in specs]
        if not specs or len(set(labels)) < len(labels):
            raise ValueError(f"A suite needs at least one reward and distinct labels, got {labels}: set `label`.")
        if on_failure not in ("zero", "exclude"):
            raise ValueError(f"on_failure must be zero or exclude, got {on_failure!r}.")
        self.specs = list(specs)
        self.on_failure, self.exclude_truncated = on_failure, exclude_truncated
        self._rewards = [build(spec.name, spec.params) for spec in specs]
        isolated: dict[int, Callable[..., Any]] = {}
        for number, (spec, reward) in enumerate(zip(specs, self._rewards, strict=True)):
            if isinstance(reward, Verifier):
                isolated[number] = reward.judge
            elif spec.isolated:
                isolated[number] = reward
        warm_up = [reward.warm_up for reward in self._rewards if isinstance(reward, Verifier)]
        self._pool = VerifierPool(pool or PoolConfig(), isolated, warm_up)

    def score(
        self,
        completions: Sequence[str],
        examples: Sequence[Mapping[str, Any]],
        lengths: Sequence[int],
        truncated: Sequence[bool],
        judged: Columns | None = None,
    ) -> SuiteScores:
        """Score N completions against N dataset rows; `lengths` in tokens, end-of-sequence included.

        Safe from any thread. `judged` is what `judge` has said of these rows already. Raises `ValueError` if the four
        differ in number; a verifier that hangs or crashes raises nothing, it counts.
        """
        rows = as_rows(completions, examples, lengths, truncated)
        columns = {**(self.judge(completions, rows) if judged is None else judged)}
        for number, reward in enumerate(self._rewards):
            if number not in columns:
                columns[number] = [as_verdict(reward(text, row)) for text, row in zip(completions, rows, strict=True)]
        verdicts = [columns[number] for number in range(len(self.specs))]
        failed = [any(column[row].status == "failed" for column in verdicts) for row in range(len(completions))]
        return SuiteScores(
            totals=[
                sum(spec.weight * verdict.score for spec, verdict in zip(self.specs, column, strict=True))
                for column in zip(*verdicts, strict=True)
            ],
            parts={
                spec.label: [verdict.score for verdict in column]
                for spec, column in zip(self.specs, verdicts, strict=True)
            },
            verdicts=verdicts[0],
            active=[
                not (fault and self.on_failure == "exclude") and not (cut and self.exclude_truncated)
                for fault, cut in zip(failed, truncated, strict=True)
            ],
            num_failed=sum(failed),
            num_no_answer=sum(verdict.status == "no_answer" for verdict in verdicts[0]),
        )

    def judge(self, completions: Sequence[str], rows: Sequence[Row]) -> Columns:
        """Let the pool judge: the verdicts of the isolated rewards alone, whose work costs this process no time."""
        columns: dict[int, list[Verdict]] = {}
        for number, (spec, reward) in enumerate(zip(self.specs, self._rewards, strict=True)):
            if isinstance(reward, Verifier):
                columns[number] = self._verify(number, reward, completions, rows)
            elif spec.isolated:
                calls = [Call(number, (text, row)) for text, row in zip(completions, rows, strict=True)]
                columns[number] = [_received(value) for value in self._pool.run(calls)]
        return columns

    def close(self) -> None:
        """Stop the workers; a later `score` starts new ones."""
        self._pool.close()

    def _verify(
        self, number: int, verifier: Verifier, completions: Sequence[str], rows: Sequence[Row]
    ) -> list[Verdict]:
        """Settle inline what can be; judge each distinct (gold, answer) once; failures keep their answer."""
        prepared = [verifier.prepare(text, row) for text, row in zip(completions, rows, strict=True)]
        queries = list(dict.fromkeys(item for item in prepared if isinstance(item, Query)))
        outcomes = dict(zip(queries, self._pool.run([Call(number, query) for query in queries]), strict=True))

        def settle(item: Verdict | Query) -> Verdict:
            if isinstance(item, Verdict):
                return item
            outcome = outcomes[item]
            return FAILED._replace(extracted=item.answer) if outcome is None else judged(bool(outcome), item.answer)

        return [settle(item) for item in prepared]


def as_rows(
    completions: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    truncated: Sequence[bool],
) -> list[Row]:
    """Return what reward functions read beside the text: the dataset row, and what is known of the response."""
    if not len(completions) == len(examples) == len(lengths) == len(truncated):
        raise ValueError(
            f"One row per completion: got {len(completions)} completions, {len(examples)} examples, "
            f"{len(lengths)} lengths and {len(truncated)} truncation flags."
        )
    return [
        {**example, "response_length": length, "truncated": cut}
        for example, length, cut in zip(examples, lengths, truncated, strict=True)
    ]


def _received(value: Any) -> Verdict:
    """What a worker's JSON says: nothing (it failed), a verdict's fields, or a plain score."""
    if value is None:
        return FAILED
    return as_verdict(Verdict(*value) if isinstance(value, list) else value)


@cache
def _grader() -> RewardSuite:
    return RewardSuite([RewardSpec(name="math")], PoolConfig(num_workers=1))


def grade(gold: str, completion: str) -> Verdict:
    """Judge one completion against one gold with the `math` reward, isolated, from any thread.

    For interactive use and tests; a batch is faster through `RewardSuite.score`. Its worker lives as long as we do.
    """
    return _grader().score([completion], [{"answer": gold}], [0], [False]).verdicts[0]
