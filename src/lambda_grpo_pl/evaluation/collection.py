"""Scores of a running evaluation, collected on every rank; what is read from disk needs neither torch nor ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lambda_grpo_pl.evaluation.scores import QuestionScores, QuestionTable, default_ks, summarize


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
