"""What n responses to each of Q questions earned, as one table, and every measure that is read from it.

A table comes from the ranks of a running evaluation (`metrics.py`) or from the records it left on disk (`compare.py`):
a number on a dashboard and the same number in a table next month are one computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lambda_grpo_pl.evaluation.intervals import best_at_k, bootstrap_interval, majority_vote, pass_at_k

STATUSES = ("ok", "no_answer", "failed")


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """What the n responses to one question earned."""

    index: int
    """Number of the question in its benchmark; repeats of it are dropped."""
    correct: Sequence[bool]
    """[n] whether each response is right."""
    scores: Sequence[float]
    """[n] reward of each response."""
    extracted: Sequence[str | None]
    """[n] answer found in each response; None where there is none."""
    lengths: Sequence[int]
    """[n] response tokens."""
    truncated: Sequence[bool]
    """[n] whether each response hit the length limit."""
    status: Sequence[str]
    """[n] `ok`, `no_answer` (nothing could be extracted) or `failed` (the verifier timed out or crashed: not wrong)."""


@dataclass(frozen=True, slots=True)
class QuestionTable:
    """Q distinct questions, ascending by index, with n responses each."""

    index: NDArray[np.int64]
    """[Q] number of each question."""
    correct: NDArray[np.bool_]
    """[Q, n] whether each response is right."""
    scores: NDArray[np.float64]
    """[Q, n] reward of each response."""
    answers: NDArray[np.int64]
    """[Q, n] class of equal answers within the question; −1 where none was extracted."""
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
        """Return each question's chance that the majority of its n answers is right, [Q]."""
        votes = zip(self.answers.tolist(), self.correct.tolist(), strict=True)
        return np.array([majority_vote(answers, correct) for answers, correct in votes])

    @classmethod
    def of(cls, questions: Iterable[QuestionScores]) -> QuestionTable:
        """Return the table of questions in any order; of repeats of an index the first stays.

        Raises `ValueError` for no question, or for questions with different numbers of samples.
        """
        first: dict[int, QuestionScores] = {}
        for question in questions:
            first.setdefault(question.index, question)
        rows = [first[index] for index in sorted(first)]
        if not rows:
            raise ValueError("No question was scored: check that the benchmark's loader yields at least one batch.")
        if len({len(row.correct) for row in rows}) > 1:
            raise ValueError("Questions have different numbers of samples: evaluate again into a new folder.")
        return cls(
            np.array([row.index for row in rows]),
            np.array([row.correct for row in rows], dtype=np.bool_),
            np.array([row.scores for row in rows], dtype=np.float64),
            np.array([answer_classes(row.extracted, row.correct) for row in rows]),
            np.array([row.lengths for row in rows]),
            np.array([row.truncated for row in rows], dtype=np.bool_),
            np.array([[STATUSES.index(status) for status in row.status] for row in rows]),
        )


def answer_classes(extracted: Sequence[str | None], correct: Sequence[bool]) -> list[int]:
    """Return one class per answer: 0 for every correct one, however it is written, −1 for none, else one per string.

    Answers that equal the gold equal each other, so `1/2` and `0.5` vote together where the verifier accepts both.
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
    """Return every measure of a table by the name it has on dashboards and in tables.

    `accuracy` is avg@n, the mean over questions of the share of correct samples; `score` the mean reward. Both come
    with `_low` and `_high` where `confidence` is above 0. Length quartiles are over responses.
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
    """Return mean and quartiles of the response length in tokens, and its mean by correctness."""
    quartiles = np.percentile(table.lengths, (25, 50, 75))
    measures = {"length/mean": table.lengths.mean()}
    measures |= zip(("length/p25", "length/median", "length/p75"), quartiles, strict=True)
    for name, chosen in (("correct", table.correct), ("incorrect", ~table.correct)):
        measures[f"length/{name}"] = table.lengths[chosen].mean() if chosen.any() else float("nan")
    return measures
