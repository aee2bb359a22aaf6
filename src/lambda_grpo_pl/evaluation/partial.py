"""The part of a batch of questions that is still to be answered, and the slots of a batch that evaluation fills."""

from __future__ import annotations

from collections.abc import Collection

import torch

from lambda_grpo_pl.batch import Completions, Prompts, Rewards
from lambda_grpo_pl.rewards import SuiteScores


def unanswered(prompts: Prompts, known: Collection[str]) -> Prompts:
    """Return the prompts whose question's id is not in `known`; there may be none."""
    rows = [row for row, example in enumerate(prompts.examples) if example["id"] not in known]
    return Prompts(prompts.ids[rows], prompts.lengths[rows], tuple(prompts.examples[row] for row in rows))


def as_rewards(scores: SuiteScores, device: torch.device) -> Rewards:
    """Return scores of N responses as tensors on `device`."""
    return Rewards(
        total=torch.tensor(scores.totals, dtype=torch.float32, device=device),
        correct=torch.tensor([verdict.correct for verdict in scores.verdicts], device=device),
        active=torch.tensor(scores.active, device=device),
        parts={name: torch.tensor(part, device=device) for name, part in scores.parts.items()},
    )


def nothing(prompts: Prompts) -> tuple[Completions, Rewards]:
    """Return no response to no prompt: what the step of an answered batch is handed."""
    ids, lengths = prompts.ids[:0], prompts.lengths[:0]
    flags = lengths.bool()
    return Completions(ids, lengths, flags, ids.float()), Rewards(lengths.float(), flags, flags, {})
