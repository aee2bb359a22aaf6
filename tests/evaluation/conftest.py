"""Evaluations whose verdicts are known, left on disk as a real one leaves them."""

import pytest

from lambda_grpo_pl.evaluation.records import EvaluationSetup, QuestionRecord, merge, write_part


def leave_records(folder, benchmark, verdicts, metric="accuracy", scores=None, template="plain", **setup):
    """Leave the records of an evaluation whose verdicts are known: one list of n verdicts per question."""
    setup = EvaluationSetup(
        benchmark=benchmark,
        template=template,
        reward="math",
        reward_reads="the last box",
        metric=metric,
        num_samples=len(verdicts[0]),
        temperature=0.6,
        **setup,
    )
    records = [
        QuestionRecord(
            id=f"{benchmark}-{index}",
            index=index,
            answer="7",
            prompt="3+4?",
            completions=["7" if right else "8" for right in correct],
            extracted=["7" if right else "8" for right in correct],
            correct=correct,
            scores=scores[index] if scores else [float(right) for right in correct],
            status=["ok"] * len(correct),
            lengths=[10 + right for right in correct],
            truncated=[False] * len(correct),
        )
        for index, correct in enumerate(verdicts)
    ]
    write_part(folder / benchmark, setup, 0, records)
    merge(folder / benchmark)


@pytest.fixture
def evaluate():
    return leave_records
