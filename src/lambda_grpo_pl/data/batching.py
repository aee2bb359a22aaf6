"""Encoded prompts as one tensor, and how ranks share training batches and validation sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch

from lambda_grpo_pl.batch import Prompts, RolloutBatch
from lambda_grpo_pl.data.prompts import EncodedPrompt
from lambda_grpo_pl.errors import UserError


class TrainBatches:
    """Training batches of one rank, without end; iterating starts at the current position of training."""

    def __init__(self, batch: Callable[[int], RolloutBatch], position: Callable[[], int]) -> None:
        """Make batch k with `batch(k)`; `position()` is the first that has not been trained on."""
        self._batch, self._position = batch, position

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield from the first batch that has not been trained on."""
        return map(self._batch, count(self._position()))


class ValBatches:
    """One validation set, distributed to the ranks batch by batch.

    All ranks get the same number of batches. Where the questions run out the first ones are repeated:
    `example["index"]`, the number of the question in its set, identifies them, and a metric counts each once.
    """

    def __init__(
        self, rows: list[EncodedPrompt], batch_size: int, pad_token_id: int, rank: int, world_size: int
    ) -> None:
        """Distribute `rows` to `world_size` ranks, `batch_size` questions at a time."""
        self.rows, self.batch_size, self.pad_token_id = rows, batch_size, pad_token_id
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-len(self.rows) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield this rank's batches; a single rank repeats nothing."""
        per_rank = -(-len(self.rows) // self.world_size)
        mine = [self.rows[(self.rank + turn * self.world_size) % len(self.rows)] for turn in range(per_rank)]
        for index in range(len(self)):
            part = mine[index * self.batch_size : (index + 1) * self.batch_size]
            yield RolloutBatch(pad_prompts(part, self.pad_token_id), index)


def pad_prompts(rows: Sequence[EncodedPrompt], pad_token_id: int) -> Prompts:
    """Stack B rows: ids [B, P], left-padded to the longest."""
    lengths = [len(row.ids) for row in rows]
    ids = torch.full((len(rows), max(lengths)), pad_token_id)
    for row, target in zip(rows, ids, strict=True):
        target[len(target) - len(row.ids) :] = torch.tensor(row.ids)
    return Prompts(ids, torch.tensor(lengths), tuple(row.example for row in rows))


def share_prompts(batch_size: int, num_ranks: int) -> int:
    """Return how many prompts of a training batch each rank reads. Raises `UserError` if they can't share it evenly."""
    if batch_size % num_ranks:
        raise UserError(
            f"data.batch_size is {batch_size}, which {num_ranks} ranks can't share evenly: set it to a multiple of "
            f"{num_ranks}."
        )
    return batch_size // num_ranks
