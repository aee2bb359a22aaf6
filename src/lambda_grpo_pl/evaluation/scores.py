"""Scores of n responses to each of Q questions: one table, and every measure that is computed from it.

The table is built from the ranks of a running evaluation (`BenchmarkScores`) or from the records on disk
(`report.tabulate_records`). Both use `summarize`, so a dashboard and a table made later show the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

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


class BenchmarkScores(Metric):
    """Collects the questions of one benchmark on every rank and computes all measures over all ranks.

    Ranks may hold different numbers of questions, or none. A question that a distributed sampler repeats to even out
    the ranks counts once, so several ranks give the numbers of one.
    """

    full_state_update = False
    rows: list[Tensor] | Tensor
    """`QuestionScores.as_row` of each question, float64: one tensor per update, one of all ranks inside `compute`."""

    def __init__(self, num_samples: int, ks: Sequence[int] | None = None, confidence: float = 0.95) -> None:
        """Start without questions.

        Args:
            num_samples: Responses per question, n.
            ks: The k of pass@k and best@k; null: the powers of two up to n, and n.
            confidence: Confidence of the intervals; 0 computes none.
        """
        # torchmetrics would gather even in a group of one, and on the device of the state: here the CPU, for which
        # NCCL has no backend.
        super().__init__(dist_sync_fn=gather_tensors, distributed_available_fn=has_several_ranks)
        self.set_dtype(torch.float64)  # of what an empty rank sends
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.num_samples = num_samples
        self.ks = tuple(ks) if ks is not None else default_ks(num_samples)
        self.confidence = confidence

    def update(self, questions: Iterable[QuestionScores]) -> None:
        """Add questions of this rank. Raises `ValueError` if one does not have n responses."""
        rows = []
        for question in questions:
            if len(question.correct) != self.num_samples:
                raise ValueError(
                    f"Question {question.index} has {len(question.correct)} responses instead of {self.num_samples}."
                )
            rows.append(question.as_row())
        if rows:
            assert isinstance(self.rows, list)
            self.rows.append(torch.tensor(rows, dtype=torch.float64, device=self.device))

    def compute(self) -> dict[str, float]:
        """Return every measure by name, as `summarize` does. Collective: every rank must call it."""
        rows = dim_zero_cat(self.rows).cpu().numpy() if len(self.rows) else np.empty((0, 0))
        return summarize(QuestionTable.of_rows(rows), self.ks, self.confidence)


def gather_tensors(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensors of all ranks, of any sizes, on this tensor's device.

    They are sent as objects: torch moves those to the device that the group's backend needs.
    """
    ranks: list[Tensor] = [tensor] * dist.get_world_size(group)
    dist.all_gather_object(ranks, tensor.cpu(), group=group)
    return [each.to(tensor.device) for each in ranks]


def has_several_ranks() -> bool:
    """Return whether there is another rank to gather from."""
    return num_ranks() > 1


def num_ranks() -> int:
    """Return the size of the default process group, or 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
