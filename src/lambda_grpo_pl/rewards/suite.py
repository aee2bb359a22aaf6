"""Several weighted rewards over a batch of responses: cheap ones inline, the ones that may hang in the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.calls import CallUnit, IsolatedReward, RewardCaller, Row
from lambda_grpo_pl.rewards.golds import check_golds
from lambda_grpo_pl.rewards.pool import Call, VerifierPool
from lambda_grpo_pl.rewards.spec import PoolConfig, RewardSpec
from lambda_grpo_pl.rewards.verdict import FAILED, LARGEST, Query, Verdict, Verifier, choose_best, judge_answer

Columns = Mapping[int, list[Verdict]]
"""Number of a reward in the suite → its verdicts, one per response."""


class SuiteScores(NamedTuple):
    """What N responses earned, in the order they came."""

    totals: list[float]
    """N weighted sums of the parts: what trains."""
    parts: dict[str, list[float]]
    """Label → N scores, unweighted."""
    verdicts: list[Verdict]
    """N verdicts of the first reward, the task's."""
    active: list[bool]
    """N: False leaves the response out of the loss: failed under `exclude`, truncated under `exclude_truncated`."""
    num_failed: int
    """Responses on which some reward timed out or crashed."""
    num_no_answer: int
    """Responses in which the first reward found no answer."""
    extras: dict[str, float]
    """`label/name` → mean of the further numbers that a reward returned, over the responses that have them."""


class RewardSuite:
    """Score responses with the rewards of a list; the first is the task's and decides what counts as correct.

    Example::

        suite = RewardSuite([RewardSpec(name="math"), RewardSpec(name="format_think", weight=0.1)])
        suite.score(["… \\\\boxed{4}"], [{"answer": "4"}], lengths=[17], truncated=[False]).totals  # [1.0]

    Args:
        rewards: the rewards, the task's first: `RewardSpec`s, or plain functions as `calls` describes them.
        pool: the isolated workers' settings; workers start with the first answer that needs one.
        on_failure: a failed verifier scores 0 (`zero`), or takes its response out of the loss (`exclude`).
        exclude_truncated: take truncated responses out of the loss (DAPO's overlong filtering).

    Raises `UserError` for an empty list, two rewards with one label, and what `build` refuses.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec | Callable[..., Any]],
        pool: PoolConfig | None = None,
        on_failure: Literal["zero", "exclude"] = "zero",
        exclude_truncated: bool = False,
    ) -> None:
        specs = [spec if isinstance(spec, RewardSpec) else RewardSpec.from_function(spec) for spec in rewards]
        if not specs:
            raise UserError("reward.functions is empty: name at least one reward, for example {name: math}.")
        labels = [spec.label for spec in specs]
        if len(set(labels)) < len(labels):
            raise UserError(f"reward.functions: two rewards share a label ({', '.join(labels)}); set `label`.")
        self.specs, self.on_failure, self.exclude_truncated = specs, on_failure, exclude_truncated
        callers = [
            RewardCaller(spec.name, spec.function, {}) if spec.function else RewardCaller.build(spec.name, spec.params)
            for spec in specs
        ]
        self._verifiers = {
            number: caller.function for number, caller in enumerate(callers) if isinstance(caller.function, Verifier)
        }
        self._callers = {number: caller for number, caller in enumerate(callers) if number not in self._verifiers}
        isolated: dict[int, Callable[..., Any]] = {
            number: IsolatedReward(caller) for number, caller in self._callers.items() if specs[number].isolated
        }
        isolated |= {number: verifier.judge for number, verifier in self._verifiers.items()}
        self._pool = VerifierPool(pool or PoolConfig(), isolated, [v.warm_up for v in self._verifiers.values()])

    def use_pool(self, pool: PoolConfig) -> None:
        """Take other settings for the isolated workers, before the first of them starts."""
        self._pool.config = pool

    def score(
        self,
        completions: Sequence[str],
        examples: Sequence[Mapping[str, Any]],
        lengths: Sequence[int],
        truncated: Sequence[bool],
        judged: Columns | None = None,
        group_size: int | None = None,
    ) -> SuiteScores:
        """Score N responses against N dataset rows; `lengths` in tokens, end-of-sequence included.

        Safe from any thread. `judged` holds the verdicts that `judge` has returned for these rows already.
        `group_size` is the number of responses to a prompt, for rewards that compare within a group; without it,
        neighbors that share one example object are a group. Raises `ValueError` if the four differ in number,
        `UserError` for a wrong return, `RewardError` if a reward raises; a verifier that hangs or crashes raises
        nothing and is counted.
        """
        rows = as_rows(completions, examples, lengths, truncated)
        groups = find_groups(examples) if group_size is None else [group_size] * (len(rows) // group_size)
        columns = {**(self.judge(completions, rows, groups) if judged is None else judged)}
        for number, caller in self._callers.items():
            if number not in columns:
                units = list(caller.split(completions, rows, groups))
                isolated = self.specs[number].isolated
                columns[number] = self._score_isolated(number, units) if isolated else caller.score(units)
        verdicts = [columns[number] for number in range(len(self.specs))]
        failed = [any(column[row].status == "failed" for column in verdicts) for row in range(len(rows))]
        return SuiteScores(
            totals=[_weigh(self.specs, column) for column in zip(*verdicts, strict=True)],
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
            extras=_mean_extras(self.specs, verdicts),
        )

    def judge(self, completions: Sequence[str], rows: Sequence[Row], groups: Sequence[int]) -> Columns:
        """Return the verdicts of the isolated rewards alone; the pool works for them, not this process.

        The rows may be a part of the batch, in whole groups: rewards that take a whole batch are left to `score`.
        """
        columns = {
            number: self._verify(number, verifier, completions, rows) for number, verifier in self._verifiers.items()
        }
        for number, caller in self._callers.items():
            if self.specs[number].isolated and caller.scope != "batch":
                columns[number] = self._score_isolated(number, list(caller.split(completions, rows, groups)))
        return columns

    def check_golds(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Refuse rows (name, example) whose gold a reward cannot judge. Raises `UserError` that names the first."""
        check_golds([caller.function for caller in self._callers.values()], rows)

    def close(self) -> None:
        """Stop the workers; a later `score` starts new ones."""
        self._pool.close()

    def _verify(
        self, number: int, verifier: Verifier, completions: Sequence[str], rows: Sequence[Row]
    ) -> list[Verdict]:
        """Settle inline what can be; judge each distinct (gold, answer) once; failures keep their answer."""
        prepared = [verifier.prepare_all(text, row) for text, row in zip(completions, rows, strict=True)]
        queries = list(dict.fromkeys(item for items in prepared for item in items if isinstance(item, Query)))
        outcomes = dict(zip(queries, self._pool.run([Call(number, query) for query in queries]), strict=True))

        def settle(item: Verdict | Query) -> Verdict:
            if isinstance(item, Verdict):
                return item
            outcome = outcomes[item]
            failed = FAILED._replace(extracted=item.answer)
            return failed if outcome is None else judge_answer(bool(outcome), item.answer)

        return [choose_best([settle(item) for item in items]) for items in prepared]

    def _score_isolated(self, number: int, units: Sequence[CallUnit]) -> list[Verdict]:
        """Score in the pool. A unit that failed fails each of its responses; a wrong return raises `UserError`."""
        verdicts: list[Verdict] = []
        for unit, value in zip(units, self._pool.run([Call(number, unit) for unit in units]), strict=True):
            if isinstance(value, dict):
                raise UserError(value["user_error"])
            verdicts.extend([FAILED] * len(unit.rows) if value is None else [Verdict(*fields) for fields in value])
        return verdicts


def _weigh(specs: Sequence[RewardSpec], verdicts: Sequence[Verdict]) -> float:
    """Return a response's total. Raises `UserError` if it is not a finite float32."""
    total = sum(spec.weight * verdict.score for spec, verdict in zip(specs, verdicts, strict=True))
    if not abs(total) <= LARGEST:  # NaN compares false
        parts = " + ".join(f"{spec.weight:g} × {spec.label}" for spec in specs)
        raise UserError(f"The total reward {parts} is {total:g}: lower the weights in reward.functions.")
    return total


def _mean_extras(specs: Sequence[RewardSpec], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for spec, column in zip(specs, verdicts, strict=True):
        for verdict in column:
            for name, value in verdict.extras.items():
                found.setdefault(f"{spec.label}/{name}", []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def find_groups(examples: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the sizes of the runs of neighbors that share one example object."""
    sizes: list[int] = []
    for number, example in enumerate(examples):
        if number and example is examples[number - 1]:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


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


@cache
def _grader() -> RewardSuite:
    return RewardSuite([RewardSpec(name="math")], PoolConfig(num_workers=1))


def grade(gold: str, completion: str) -> Verdict:
    """Judge one response against one gold with the `math` reward, isolated, from any thread.

    For interactive use and tests; a batch is faster through `RewardSuite.score`. Its worker lives as long as we do.
    """
    return _grader().score([completion], [{"answer": gold}], [0], [False]).verdicts[0]
