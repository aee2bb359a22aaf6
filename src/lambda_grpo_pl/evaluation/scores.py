"""Scores of n responses to each of Q questions: one table, and every measure that is computed from it.

The table is built from the ranks of a running evaluation (`collection.BenchmarkScores`) or from the records on disk
(`report.tabulate_records`). Both use `summarize`, so a dashboard and a table made later show the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.estimators import best_at_k, majority_vote, pass_at_k
from lambda_grpo_pl.evaluation.intervals import bootstrap_interval

STATUSES = ("ok", "no_answer", "failed")


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """Scores of the n responses to one question."""

    index: int
    """Position of the question in its benchmark; only its first occurrence counts."""
    correct: Sequence[bool]
    """[n] whether each response is correct."""
    scores: Sequence[float]
    """[n] reward of each response."""
    extracted: Sequence[str | None]
    """[n] answer extracted from each response, or None."""
    lengths: Sequence[int]
    """[n] response tokens."""
    truncated: Sequence[bool]
    """[n] whether each response hit the length limit."""
    status: Sequence[str]
    """[n] `ok`, `no_answer` (no answer was extracted) or `failed` (the verifier timed out or crashed)."""

    def as_row(self) -> list[float]:
        """Return what measures are computed from, [1 + 6n]: the index, then the columns of `QuestionTable`."""
        answers = answer_classes(self.extracted, self.correct)
        status = map(STATUSES.index, self.status)
        return [self.index, *self.correct, *self.scores, *answers, *self.lengths, *self.truncated, *status]


@dataclass(frozen=True, slots=True)
class QuestionTable:
    """Q distinct questions, ascending by index, with n responses each."""

    index: NDArray[np.int64]
    """[Q] position of each question in the benchmark."""
    correct: NDArray[np.bool_]
    """[Q, n] whether each response is correct."""
    scores: NDArray[np.float64]
    """[Q, n] reward of each response."""
    answers: NDArray[np.int64]
    """[Q, n] class of equal answers within the question; −1 without an answer."""
    lengths: NDArray[np.int64]
    """[Q, n] response tokens."""
    truncated: NDArray[np.bool_]
    """[Q, n] whether each response hit the length limit."""
    status: NDArray[np.int64]
    """[Q, n] position in `STATUSES`."""

    def pass_at(self, k: int) -> NDArray[np.float64]:
        """Return each question's unbiased pass@k, [Q]."""
        return pass_at_k(self.correct.shape[1], self.correct.sum(axis=1), k)

    def majority(self) -> NDArray[np.float64]:
        """Return the probability that the most frequent of a question's n answers is correct, [Q]."""
        votes = zip(self.answers.tolist(), self.correct.tolist(), strict=True)
        return np.array([majority_vote(answers, correct) for answers, correct in votes])

    @classmethod
    def of(cls, questions: Iterable[QuestionScores]) -> QuestionTable:
        """Return the table of questions given in any order; of questions with the same index, the first counts.

        Raises `UserError` if there is no question, or if questions have different numbers of responses.
        """
        rows = [question.as_row() for question in questions]
        if len(set(map(len, rows))) > 1:
            raise UserError("Questions have different numbers of responses: evaluate again into a new folder.")
        return cls.of_rows(np.array(rows, dtype=np.float64))

    @classmethod
    def of_rows(cls, rows: NDArray[np.float64]) -> QuestionTable:
        """Return the table of `QuestionScores.as_row`, [Q, 1 + 6n], in any order; see `of` for repeats and errors."""
        if rows.size == 0:
            raise UserError("No question was scored: check that each set in data.val holds at least one question.")
        index, first = np.unique(rows[:, 0].astype(np.int64), return_index=True)
        correct, scores, answers, lengths, truncated, status = np.split(rows[first, 1:], 6, axis=1)
        return cls(
            index,
            correct.astype(np.bool_),
            scores,
            answers.astype(np.int64),
            lengths.astype(np.int64),
            truncated.astype(np.bool_),
            status.astype(np.int64),
        )


def answer_classes(extracted: Sequence[str | None], correct: Sequence[bool]) -> list[int]:
    """Return one class per answer: 0 for every correct one, −1 for none, otherwise one class per distinct string.

    Correct answers equal the gold answer and therefore each other, so `1/2` and `0.5` vote together.
    """
    classes: dict[str, int] = {}
    return [
        0 if right else -1 if answer is None else classes.setdefault(answer.strip(), len(classes) + 1)
        for answer, right in zip(extracted, correct, strict=True)
    ]


def default_ks(num_samples: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … up to n, and n."""
    return tuple(sorted({2**power for power in range(num_samples.bit_length())} | {num_samples}))


def summarize(table: QuestionTable, ks: Sequence[int], confidence: float = 0.95) -> dict[str, float]:
    """Return every measure of a table, by its name on dashboards and in tables.

    `accuracy` is avg@n, the mean over questions of the share of correct responses; `score` is the mean reward. Both
    have interval bounds `_low` and `_high` if `confidence` is above 0. Lengths are in tokens, shares in [0, 1], and a
    mean over no response is `nan`.
    """
    n = table.correct.shape[1]
    accuracy, score = table.correct.mean(axis=1), table.scores.mean(axis=1)
    measures: dict[str, float] = {"accuracy": accuracy.mean(), "score": score.mean()}
    for name, values in (("accuracy", accuracy), ("score", score)):
        if confidence > 0:
            _, measures[f"{name}_low"], measures[f"{name}_high"] = bootstrap_interval(values, confidence)
    measures[f"avg@{n}"] = accuracy.mean()
    measures |= {f"pass@{k}": table.pass_at(k).mean() for k in ks}
    measures |= {f"best@{k}": best_at_k(table.scores, k).mean() for k in ks}
    measures[f"maj@{n}"] = table.majority().mean()
    measures |= length_measures(table)
    measures["truncated"] = table.truncated.mean()
    measures["no_answer"] = (table.status == STATUSES.index("no_answer")).mean()
    measures["verifier_failed"] = (table.status == STATUSES.index("failed")).mean()
    measures["num_questions"], measures["num_samples"] = len(table.index), n
    return {name: float(value) for name, value in measures.items()}


def length_measures(table: QuestionTable) -> dict[str, float]:
    """Return the mean and quartiles of the response length in tokens, and its mean by correctness."""
    quartiles = np.percentile(table.lengths, (25, 50, 75))
    measures = {"length/mean": table.lengths.mean()}
    measures |= zip(("length/p25", "length/median", "length/p75"), quartiles, strict=True)
    for name, chosen in (("correct", table.correct), ("incorrect", ~table.correct)):
        measures[f"length/{name}"] = table.lengths[chosen].mean() if chosen.any() else float("nan")
    return measures
