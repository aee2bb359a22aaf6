"""The two ends of evaluating a batch: the questions that have no answer yet, and a record of each one answered."""

from __future__ import annotations

from collections.abc import Collection

from lambda_grpo_pl.batch import Completions, Prompts, Rewards
from lambda_grpo_pl.evaluation.records import QuestionRecord
from lambda_grpo_pl.rollout.engine import ScoredResponses


def question_records(prompts: Prompts, scored: ScoredResponses, n: int) -> list[QuestionRecord]:
    """Return a record for each prompt with its n responses and what they earned."""
    _, responses, scores = scored
    records = []
    for number, example in enumerate(prompts.examples):
        rows = slice(number * n, (number + 1) * n)
        verdicts = scores.verdicts[rows]
        records.append(
            QuestionRecord(
                id=example["id"],
                index=example["index"],
                answer=example["answer"],
                prompt=example["prompt"],
                completions=responses.texts[rows],
                extracted=[verdict.extracted for verdict in verdicts],
                correct=[verdict.correct for verdict in verdicts],
                scores=scores.totals[rows],
                status=[verdict.status for verdict in verdicts],
                lengths=responses.lengths[rows],
                truncated=responses.truncated[rows],
            )
        )
    return records


def select_unanswered(prompts: Prompts, known: Collection[str]) -> Prompts:
    """Return the prompts whose question's id is not in `known`; there may be none."""
    rows = [row for row, example in enumerate(prompts.examples) if example["id"] not in known]
    return Prompts(prompts.ids[rows], prompts.lengths[rows], tuple(prompts.examples[row] for row in rows))


def empty_slots(prompts: Prompts) -> tuple[Completions, Rewards]:
    """Return zero completions and zero rewards: what the validation step of an answered batch reads."""
    ids, lengths = prompts.ids[:0], prompts.lengths[:0]
    flags = lengths.bool()
    return Completions(ids, lengths, flags, ids.float()), Rewards(lengths.float(), flags, flags, {})
