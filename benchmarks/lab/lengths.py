"""Measure how length and correctness go together in an evaluation, and say which preference the evidence suggests.

    python -m benchmarks.lab.lengths runs/base

The argument is a run's folder, or an evaluation of the base model by `lambda-grpo validate` with several responses per
question (`num_samples` of 4 or more). docs/which-preference.md explains the numbers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import QuestionRecord, read_records
from lambda_grpo_pl.evaluation.runs import find_evaluation
from lambda_grpo_pl.objective import AdvantageConfig, compute_advantages, correlation_sums, pooled_correlation

MATTERS = 0.3
"""|corr(ℓ, A)| from which the lab's regimes count as ones where length matters."""


@dataclass(frozen=True)
class LengthProfile:
    """How long right and wrong responses are."""

    num_questions: int
    num_signal: int
    """Questions with both right and wrong responses: only they have advantages."""
    accuracy: float
    cv: float
    """Standard deviation over mean of all lengths."""
    gap: float
    """ln(mean length of wrong responses / mean length of right ones); NaN without one of the two."""
    truncated: float
    """Share of responses that hit the limit."""
    correlation: float
    """Pooled correlation of length and advantage within groups; NaN if nothing varies."""

    def describe(self) -> str:
        """Return the numbers in one line."""
        return (
            f"{self.num_questions} questions, {self.num_signal} with right and wrong responses; accuracy "
            f"{self.accuracy:.2f}, CV {self.cv:.2f}, gap {self.gap:+.2f}, truncated {100 * self.truncated:.0f} %, "
            f"corr(ℓ, A) {self.correlation:+.2f}"
        )

    def advise(self) -> str:
        """Return what the lab's evidence suggests for such lengths."""
        if math.isnan(self.correlation):
            return "Lengths or rewards do not vary within groups, so that nothing can be said: sample more responses."
        if self.correlation <= -MATTERS:
            return (
                "Wrong responses are long: prefer grpo.yaml or correlation.yaml; the token mean (dapo.yaml) loses here."
            )
        if self.correlation >= MATTERS:
            return "Right responses are long: prefer dapo.yaml or correlation.yaml; grpo.yaml loses here."
        return (
            "Length says little about correctness: the correlation does not tell which preference is better. Start "
            "with dapo.yaml, and try grpo.yaml with its own learning rate."
        )


def measure_lengths(records: Sequence[QuestionRecord]) -> LengthProfile:
    """Measure one benchmark's records. Raises `UserError` if a question has a single response."""
    if any(len(record.lengths) < 2 for record in records):
        raise UserError(
            "Advantages compare several responses to one question: evaluate with "
            "evaluation.overrides.num_samples of 4 or more and a temperature above 0."
        )
    lengths = [length for record in records for length in record.lengths]
    correct = [right for record in records for right in record.correct]
    sums = torch.zeros(3, dtype=torch.float64)
    for record in records:
        advantages = compute_advantages(torch.tensor([record.correct]).double(), AdvantageConfig())
        sums += correlation_sums(torch.tensor([record.lengths]), advantages)
    return LengthProfile(
        num_questions=len(records),
        num_signal=sum(any(record.correct) and not all(record.correct) for record in records),
        accuracy=sum(correct) / len(correct),
        cv=float(torch.tensor(lengths).double().std(unbiased=False) / max(_mean(lengths), 1e-12)),
        gap=_find_gap(lengths, correct),
        truncated=_mean([cut for record in records for cut in record.truncated]),
        correlation=float(pooled_correlation(sums)),
    )


def _find_gap(lengths: Sequence[int], correct: Sequence[bool]) -> float:
    right = [length for length, is_right in zip(lengths, correct, strict=True) if is_right]
    wrong = [length for length, is_right in zip(lengths, correct, strict=True) if not is_right]
    return math.log(max(_mean(wrong), 1) / max(_mean(right), 1)) if right and wrong else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Print each benchmark's profile and the advice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.lengths", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run or of one evaluation")
    arguments = parser.parse_args(argv)
    try:
        for folder in sorted({file.parent for file in find_evaluation(arguments.run).glob("*/*.parquet")}):
            profile = measure_lengths(read_records(folder))
            print(f"{folder.name}: {profile.describe()}\n  {profile.advise()}")
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
