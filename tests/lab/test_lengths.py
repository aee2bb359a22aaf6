"""What is measured of an evaluation's lengths, and what is advised."""

from __future__ import annotations

import math

import pytest

from benchmarks.lab.lengths import measure_lengths
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import QuestionRecord


def record(index: int, lengths: list[int], correct: list[bool]) -> QuestionRecord:
    n = len(lengths)
    return QuestionRecord(
        id=str(index), index=index, answer="", prompt="", completions=[""] * n, extracted=[None] * n, correct=correct,
        scores=[float(right) for right in correct], status=["ok"] * n, lengths=lengths,
        truncated=[length == 60 for length in lengths],
    )  # fmt: skip


def test_the_numbers_by_hand() -> None:
    """Within groups: −10, 10 against ±A in the first, −25, 25 in the second, nothing in the third."""
    found = measure_lengths(
        [record(0, [10, 30], [True, False]), record(1, [10, 60], [True, False]), record(2, [5, 9], [True, True])]
    )
    assert (found.num_questions, found.num_signal) == (3, 2)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.truncated == pytest.approx(1 / 6)
    assert found.gap == pytest.approx(math.log(45 / 8.5))
    # Σ (ℓ − ℓ̄) A = −2a (10 + 25), Σ (ℓ − ℓ̄)² = 2 (100 + 625 + 4), Σ A² = 4 a², whatever a
    assert found.correlation == pytest.approx(-70 / math.sqrt(2 * 729 * 4), abs=1e-6)
    assert "grpo.yaml" in found.advise()


def test_the_advice_turns_with_the_sign_and_is_modest_in_between() -> None:
    long_right = measure_lengths([record(0, [30, 10], [True, False])])
    assert "prefer dapo.yaml" in long_right.advise()
    mixed = measure_lengths([record(0, [30, 10], [True, False]), record(1, [10, 30], [True, False])])
    assert "says little" in mixed.advise()
    assert "nothing can be said" in measure_lengths([record(0, [30, 10], [True, True])]).advise()


def test_single_responses_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="num_samples"):
        measure_lengths([record(0, [30], [True])])
