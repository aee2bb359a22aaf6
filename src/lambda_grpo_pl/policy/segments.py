"""Who sees whom in a packed row: segments, each with an optional prefix, and the padded blocks that SDPA needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 16
"""Segments up to this many tokens share a block: finer blocks cost more in calls than they save in padding."""
LONGEST_LOG = 64
"""More than the base-2 logarithm of any length."""


class Block(NamedTuple):
    """S segments whose queries are padded to Q and keys to K."""

    query_index: Tensor
    """[S, Q] int64 position of each query in the packed row (any valid one at padding)."""
    key_index: Tensor
    """[S, K] int64 position of each key in the packed row (any valid one at padding)."""
    mask: Tensor | None
    """[S, 1, Q, K] bool, True = may attend; None where plain causal attention is meant."""


class Blocks(NamedTuple):
    """All segments of a packed row of T tokens, as padded blocks."""

    blocks: tuple[Block, ...]
    """Segments of similar length; those with and without a prefix are in separate blocks."""
    slot: Tensor
    """[T] int64 place of each packed token in the blocks' outputs, laid end to end."""


class AttentionLayout:
    """Who sees whom in a packed row of T tokens: segment s sees its prefix and, causally, itself.

    What varlen attention reads is built at once. The blocks for SDPA are built when first asked for and then kept, so
    that a GPU which never reads them neither allocates their masks nor waits for their sizes.
    """

    def __init__(self, prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor) -> None:
        """Lay out S segments; they are in packed order and cover the row.

        Arguments are [S] int64 on one device: where the prefix of each segment begins and how long it is (0 for none),
        where the segment itself begins and how long it is.
        """
        self._segments = (prefix_start, prefix_length, start, length)
        self._blocks: dict[int | None, Blocks] = {}
        keys = length + prefix_length
        self.key_index = _key_index(*self._segments) if bool((prefix_length > 0).any()) else None
        """[ΣK] int64 keys of every segment end to end; None where keys are the queries themselves."""
        self.cu_queries = F.pad(length.cumsum(0), (1, 0)).int()
        """[S+1] int32 cumulated query lengths."""
        self.cu_keys = F.pad(keys.cumsum(0), (1, 0)).int()
        """[S+1] int32 cumulated key lengths."""
        self.max_query = int(length.max())
        """Longest segment."""
        self.max_key = int(keys.max())
        """Most keys of any segment."""

    def blocks(self, window: int | None) -> Blocks:
        """Blocks in which a token sees the last `window` tokens, itself included (None: all)."""
        if window is not None and window >= self.max_key:
            window = None
        if window not in self._blocks:
            self._blocks[window] = _make_blocks(*self._segments, window)
        return self._blocks[window]


def _make_blocks(
    prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor, window: int | None
) -> Blocks:
    device = start.device
    blocks: list[Block] = []
    slot = torch.empty(int(length.sum()), dtype=torch.int64, device=device)
    filled = 0
    kind = length.clamp(min=SHORT).log2().ceil() + LONGEST_LOG * (prefix_length > 0)
    for like in torch.unique(kind[length > 0]).tolist():
        rows = torch.nonzero((kind == like) & (length > 0)).flatten()
        block, valid = _block(prefix_start[rows], prefix_length[rows], start[rows], length[rows], window)
        blocks.append(block)
        places = torch.arange(valid.numel(), device=device).view_as(valid) + filled
        slot[block.query_index[valid]] = places[valid]
        filled += valid.numel()
    return Blocks(tuple(blocks), slot)


def _block(
    prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor, window: int | None
) -> tuple[Block, Tensor]:
    """One padded block and [S, Q] bool, True where a query is real."""
    device = start.device
    num_prefix = int(prefix_length.max())
    query = torch.arange(int(length.max()), device=device)
    valid = query < length[:, None]
    query_index = start[:, None] + query.clamp(max=length[:, None] - 1)
    if num_prefix == 0 and window is None:
        return Block(query_index, query_index, None), valid
    distance = query[:, None] - query  # [Q, Q]
    sees_self = (distance >= 0).expand(length.numel(), -1, -1)
    prefix = torch.arange(num_prefix, device=device)
    prefix_index = prefix_start[:, None] + prefix.clamp(max=prefix_length[:, None] - 1)
    sees_prefix = (prefix < prefix_length[:, None])[:, None, :].expand(-1, query.numel(), -1)
    if window is not None:
        behind = prefix_length[:, None, None] + query[:, None] - prefix  # [S, Q, prefix]
        sees_self, sees_prefix = sees_self & (distance < window), sees_prefix & (behind < window)
    mask = torch.cat([sees_prefix, sees_self], dim=2)[:, None]
    return Block(query_index, torch.cat([prefix_index, query_index], dim=1), mask), valid


def _key_index(prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """[ΣK] positions of prefix and own tokens, segment after segment."""
    starts = torch.stack([prefix_start, start], dim=1).flatten()
    lengths = torch.stack([prefix_length, length], dim=1).flatten()
    offsets = starts - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum()), device=start.device) + offsets.repeat_interleave(lengths)
