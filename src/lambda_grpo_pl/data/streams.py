"""Endless streams of prompts whose n-th row is a function of the seed, so that a position is one number.

A `PromptTable` permutes its rows in each epoch and reads any row at once. A `PromptStream` reads streaming data through
a shuffle buffer; it reaches row n by reading the rows before it. Both have `take(start, count)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import count as count_up
from itertools import islice
from typing import Any, Protocol

import torch

from lambda_grpo_pl.data.prompts import EncodedPrompt, PromptReader
from lambda_grpo_pl.data.sources import open_stream, read_stream

SHUFFLE_BUFFER = 10_000


class PromptSequence(Protocol):
    """Rows 0, 1, 2, … without end."""

    def take(self, start: int, count: int) -> list[EncodedPrompt]:
        """Return rows start … start + count - 1."""
        ...


class PromptTable:
    """Rows in memory: epoch e is a permutation of all of them, decided by (seed, name, e)."""

    def __init__(self, rows: Sequence[EncodedPrompt], seed: int, name: str, shuffle: bool = True) -> None:
        """Keep the rows; streams of different `name` visit them in different orders."""
        self.rows, self.shuffle = rows, shuffle
        self._key = f"{seed}/{name}"
        self._epoch = -1
        self._order: Sequence[int] = ()

    def take(self, start: int, count: int) -> list[EncodedPrompt]:
        """Return rows start … start + count - 1 of the endless stream."""
        return [self._row(position) for position in range(start, start + count)]

    def _row(self, position: int) -> EncodedPrompt:
        epoch, place = divmod(position, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        return self.rows[self._order[place]]

    def _permutation(self, epoch: int) -> Sequence[int]:
        if not self.shuffle:
            return range(len(self.rows))
        seed = int.from_bytes(hashlib.sha256(f"{self._key}/{epoch}".encode()).digest()[:7], "big")
        order: list[int] = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed)).tolist()
        return order


class PromptStream:
    """Rows read one after another: epoch e is shuffled through a buffer, decided by (seed, name, e)."""

    def __init__(self, reader: PromptReader, seed: int, name: str, shuffle: bool = True) -> None:
        """Read from a `datasets.IterableDataset`; nothing is opened before the first `take`."""
        self.reader, self.shuffle = reader, shuffle
        self._seed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")
        self._rows, self._position = self._endless(), 0
        self._last: tuple[int, list[EncodedPrompt]] = 0, []

    def take(self, start: int, count: int) -> list[EncodedPrompt]:
        """Return rows start … start + count - 1; going forward reads the rows in between, going back starts over.

        The last range can be taken again at no cost.
        """
        if (start, count) == (self._last[0], len(self._last[1])):
            return self._last[1]
        if start < self._position:
            self._rows, self._position = self._endless(), 0
        taken = list(islice(self._rows, start - self._position, start - self._position + count))
        self._position, self._last = start + count, (start, taken)
        return taken

    def _endless(self) -> Iterator[EncodedPrompt]:
        reader = self.reader
        dataset: Any = open_stream(reader.source, reader.key)
        if self.shuffle:
            dataset = dataset.shuffle(seed=self._seed, buffer_size=SHUFFLE_BUFFER)
        for epoch in count_up():
            dataset.set_epoch(epoch)
            num_rows = 0
            rows = reader.encode_all(read_stream(reader.source, dataset))
            for num_rows, row in enumerate(rows, start=1):  # noqa: B007
                yield row
            reader.require_rows(num_rows)  # otherwise a source without usable rows is read forever
