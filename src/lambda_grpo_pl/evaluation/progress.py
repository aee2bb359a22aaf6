"""Continuing an interrupted evaluation: which questions of a set are answered already, and by which weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.collection import num_ranks
from lambda_grpo_pl.evaluation.records import (
    EvaluationSetup,
    QuestionRecord,
    list_benchmarks,
    merge,
    read_records,
    read_setup,
    write_part,
)

SUPERSEDED = "superseded"


class ResumableSet:
    """The records of one set in an evaluation's folder.

    Every rank calls::

        answers = ResumableSet(folder, setup, examples)
        answers.set_aside()                       # rank 0 only
        answers.read_found()                      # collective
        answers.found["gsm8k-00007"]              # answered before; other questions are sampled, and then
        answers.add(records, rank)
        answers.merge()                           # rank 0 only, after a barrier

    Records are complete only if all nodes share the folder's filesystem: each rank writes its own parts, and rank 0
    reads and merges them.
    """

    def __init__(self, folder: Path, setup: EvaluationSetup, asked: Sequence[Mapping[str, Any]]) -> None:
        """Note the folder, the setup and the dataset rows that are asked; nothing is read yet.

        Raises `UserError` if two questions share an id.
        """
        self.folder = folder / setup.benchmark
        self.setup = setup
        self.asked: dict[str, Mapping[str, Any]] = {}
        for example in asked:
            if example["id"] in self.asked:
                raise UserError(
                    f"Two questions of {setup.benchmark} have the id {example['id']!r}, so their records would be "
                    "mixed: make the column `id` unique, or remove it."
                )
            self.asked[example["id"]] = example
        self.found: dict[str, QuestionRecord] = {}

    def set_aside(self) -> Path | None:
        """Move records from other weights, settings or questions away and return their new folder; None without any."""
        if not any(self.folder.glob("*.parquet")) or self._fits():
            return None
        return _move_away(self.folder)

    def read_found(self) -> None:
        """Read the answers of an earlier evaluation on rank 0 and send them to every rank.

        All ranks then agree on `found` and `complete` even if a node does not see the files. Collective: every rank
        must call it, after `set_aside` on rank 0.
        """
        if num_ranks() == 1:
            self.found = self._read()
            return
        shared = [self._read() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(shared, src=0)
        assert shared[0] is not None
        self.found = shared[0]

    @property
    def complete(self) -> bool:
        """Whether every question was answered before; the same on every rank."""
        return len(self.found) == len(self.asked)

    def add(self, records: Sequence[QuestionRecord], rank: int) -> None:
        """Write records immediately, so that they need not be sampled again."""
        write_part(self.folder, self.setup, rank, records)

    def merge(self) -> None:
        """Merge the parts of all ranks into one sorted file."""
        merge(self.folder)

    def _read(self) -> dict[str, QuestionRecord]:
        if not any(self.folder.glob("*.parquet")):
            return {}
        return {record.id: record for record in read_records(self.folder) if record.id in self.asked}

    def _fits(self) -> bool:
        """Return whether the records on disk answer these questions under this setup."""
        if not read_setup(self.folder).same_responses(self.setup):
            return False
        return all(
            (record.index, record.prompt, record.answer) == (asked["index"], asked["prompt"], asked["answer"])
            for record in read_records(self.folder)
            if (asked := self.asked.get(record.id)) is not None
        )


def set_aside_other_weights(folder: Path, policy: str) -> list[Path]:
    """Move a folder's sets that weights other than `policy` answered away and return their new folders. Rank 0 only.

    Without this, a set that is not asked this time would appear beside new scores as if one policy had made both.
    """
    return [_move_away(each) for each in list_benchmarks(folder) if read_setup(each).policy != policy]


def weights_digest(policy: nn.Module) -> str:
    """Return 16 hexadecimal digits that change with every optimizer step.

    They are a hash of each tensor's norm, in float64 to ten digits; the rounding absorbs the order in which sharded
    weights are summed. Collective: every rank must call it.
    """
    norms = []
    for weight in policy.parameters():
        norm = torch.linalg.vector_norm(weight.detach(), dtype=torch.float64)
        norms.append((norm.full_tensor() if isinstance(norm, DTensor) else norm).cpu())
    text = " ".join(f"{norm:.9e}" for norm in torch.stack(norms).tolist())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _move_away(folder: Path) -> Path:
    home = folder.parent / SUPERSEDED
    home.mkdir(exist_ok=True)
    number = 1 + sum(1 for each in home.iterdir() if each.name.rpartition("-")[0] == folder.name)
    return folder.rename(home / f"{folder.name}-{number}")
