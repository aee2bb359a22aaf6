"""One set of one evaluation: the questions that an interrupted evaluation has answered, and those still to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_grpo_pl.evaluation.records import (
    EvaluationSetup,
    QuestionRecord,
    RecordWriter,
    merge,
    read_records,
    read_settings,
)

SUPERSEDED = "superseded"


class ResumableSet:
    """The records of one set in an evaluation's folder.

    Every rank calls, with a barrier after each of the first two so that nobody writes before all have read::

        mine = ResumableSet(folder, setup, examples)
        mine.set_aside()                       # one rank
        mine.read_found()
        mine.found["gsm8k-00007"]              # answered before; other questions are sampled, and then
        mine.add(records, rank)
        mine.merge()                           # one rank, once all are through
    """

    def __init__(self, folder: Path, setup: EvaluationSetup, asked: Sequence[Mapping[str, Any]]) -> None:
        """Keep where records lie, how they are made, and the dataset rows that are asked; nothing is read yet.

        Raises `ValueError` for two questions of one id.
        """
        self.folder = folder / setup.benchmark
        self.setup = setup
        self.asked: dict[str, Mapping[str, Any]] = {}
        for example in asked:
            if example["id"] in self.asked:
                raise ValueError(
                    f"Two questions of {setup.benchmark} have the id {example['id']!r}, so their records would mix: "
                    "give each its own, or leave the column `id` out."
                )
            self.asked[example["id"]] = example
        self.found: dict[str, QuestionRecord] = {}

    def set_aside(self) -> Path | None:
        """Move records of other weights, settings or questions away, and return where to; None if there are none."""
        if not any(self.folder.glob("*.parquet")) or self._fits():
            return None
        return _move_away(self.folder)

    def read_found(self) -> None:
        """Read what was answered before."""
        if any(self.folder.glob("*.parquet")):
            self.found = {record.id: record for record in read_records(self.folder) if record.id in self.asked}

    @property
    def complete(self) -> bool:
        """Whether every question was answered before."""
        return len(self.found) == len(self.asked)

    def add(self, records: Sequence[QuestionRecord], rank: int) -> None:
        """Write records at once: what stands on disk need not be sampled again."""
        with RecordWriter(self.folder, self.setup, rank) as writer:
            for record in records:
                writer.add(record)

    def merge(self) -> None:
        """Turn the parts of all ranks into one sorted file."""
        merge(self.folder)

    def _fits(self) -> bool:
        """Whether the records on disk answer these questions under this setup."""
        if read_settings(self.folder) != self.setup:
            return False
        return all(
            (record.index, record.prompt, record.answer) == (asked["index"], asked["prompt"], asked["answer"])
            for record in read_records(self.folder)
            if (asked := self.asked.get(record.id)) is not None
        )


def set_aside_other_weights(folder: Path, policy: str) -> list[Path]:
    """Move a folder's sets that other weights than `policy` answered away, and return where to. For one rank.

    Sets that are not asked this time would otherwise stand beside new scores as if one policy had made both.
    """
    sets = sorted({file.parent for file in folder.glob("*/*.parquet")})
    return [_move_away(each) for each in sets if read_settings(each).policy != policy]


def _move_away(folder: Path) -> Path:
    home = folder.parent / SUPERSEDED
    home.mkdir(exist_ok=True)
    number = 1 + sum(1 for each in home.iterdir() if each.name.rpartition("-")[0] == folder.name)
    return folder.rename(home / f"{folder.name}-{number}")
