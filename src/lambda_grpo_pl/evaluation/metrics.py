"""Metrics over questions with n samples each: accuracy, pass@k, majority, best@k, lengths, truncation, failures.

Every metric keeps one row per question and reduces only in `compute`, so ranks may hold different numbers of questions,
a rank may hold none, and a question that a distributed sampler repeated to even out the ranks counts once. Two ranks
give the numbers of one.

`BenchmarkScores` computes everything from one gathered table and is what an evaluation keeps per benchmark; the small
classes after it are the same measures one by one, for a loop of your own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lambda_grpo_pl.evaluation.intervals import best_at_k
from lambda_grpo_pl.evaluation.scores import (
    STATUSES,
    QuestionScores,
    QuestionTable,
    answer_classes,
    default_ks,
    length_measures,
    summarize,
)

NUM_COLUMNS = 6


class QuestionMetric(Metric):
    """Base of every metric here: collects rows, gathers them over ranks, drops repeats.

    Its one state is flat float64 because that is what torchmetrics gathers from a rank without data.
    """

    full_state_update = False
    rows: list[Tensor] | Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.set_dtype(torch.float64)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, questions: Sequence[QuestionScores]) -> None:
        """Add questions. Raises `ValueError` where one does not have the n samples that this metric was made for."""
        flat: list[float] = []
        for question in questions:
            if len(question.correct) != self.num_samples:
                raise ValueError(
                    f"Question {question.index} has {len(question.correct)} samples, not {self.num_samples}: keep "
                    "num_samples the same while evaluating, or start in a new folder."
                )
            flat += [question.index, *question.correct, *question.scores]
            flat += [*answer_classes(question.extracted, question.correct), *question.lengths, *question.truncated]
            flat += map(STATUSES.index, question.status)
        if flat:
            assert isinstance(self.rows, list)
            self.rows.append(torch.tensor(flat, dtype=torch.float64, device=self.device))

    def table(self) -> QuestionTable:
        """Return the distinct questions collected so far, over all ranks inside `compute`.

        Raises `ValueError` where there is none.
        """
        flat = dim_zero_cat(self.rows).cpu().numpy() if len(self.rows) else np.empty(0)
        if flat.size == 0:
            raise ValueError("No question was scored: check that the benchmark's loader yields at least one batch.")
        rows = flat.reshape(-1, 1 + NUM_COLUMNS * self.num_samples)
        index, first = np.unique(rows[:, 0].astype(np.int64), return_index=True)
        correct, scores, answers, lengths, truncated, status = np.split(rows[first, 1:], NUM_COLUMNS, axis=1)
        return QuestionTable(
            index,
            correct.astype(np.bool_),
            scores,
            answers.astype(np.int64),
            lengths.astype(np.int64),
            truncated.astype(np.bool_),
            status.astype(np.int64),
        )

    def _result(self, value: float | np.floating) -> Tensor:
        return torch.tensor(float(value), dtype=torch.float64, device=self.device)


class BenchmarkScores(QuestionMetric):
    """Everything that is reported about one benchmark, from one table.

    `ks` are the k of pass@k and best@k; by default the powers of two up to n, and n. With `confidence=0` no interval is
    bootstrapped, which saves half a second on the largest benchmark.
    """

    def __init__(self, num_samples: int, ks: Sequence[int] | None = None, confidence: float = 0.95) -> None:
        super().__init__(num_samples)
        self.ks = tuple(ks) if ks is not None else default_ks(num_samples)
        self.confidence = confidence

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name; lengths in tokens, shares in [0, 1], `nan` for a mean over nothing."""
        return {name: self._result(value) for name, value in summarize(self.table(), self.ks, self.confidence).items()}


class AvgAtK(QuestionMetric):
    """Share of correct responses, averaged over questions: avg@n."""

    def compute(self) -> Tensor:
        """Return it in [0, 1]."""
        return self._result(self.table().correct.mean())


class PassAtK(QuestionMetric):
    """Unbiased chance that k of the n responses hold a correct one, averaged over questions."""

    def __init__(self, num_samples: int, k: int) -> None:
        super().__init__(num_samples)
        self.k = k

    def compute(self) -> Tensor:
        """Return it in [0, 1]."""
        return self._result(self.table().pass_at(self.k).mean())


class BestAtK(PassAtK):
    """Expected best score among k of the n responses, averaged over questions."""

    def compute(self) -> Tensor:
        """Return it in the unit of the score."""
        return self._result(best_at_k(self.table().scores, self.k).mean())


class MajAtN(QuestionMetric):
    """Share of questions whose most frequent answer among n is correct."""

    def compute(self) -> Tensor:
        """Return it in [0, 1]."""
        return self._result(self.table().majority().mean())


class ResponseLength(QuestionMetric):
    """Response length in tokens: mean, quartiles, and by correctness."""

    def compute(self) -> dict[str, Tensor]:
        """Return them by name, in tokens."""
        return {name: self._result(value) for name, value in length_measures(self.table()).items()}


class TruncatedShare(QuestionMetric):
    """Share of responses that hit the length limit."""

    def compute(self) -> Tensor:
        """Return it in [0, 1]."""
        return self._result(self.table().truncated.mean())


class StatusShare(QuestionMetric):
    """Share of responses with one verifier status: `failed` or `no_answer`."""

    def __init__(self, num_samples: int, status: str) -> None:
        super().__init__(num_samples)
        self.status = STATUSES.index(status)

    def compute(self) -> Tensor:
        """Return it in [0, 1]."""
        return self._result((self.table().status == self.status).mean())
