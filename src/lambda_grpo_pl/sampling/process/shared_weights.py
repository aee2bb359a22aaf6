"""Weights in memory that two processes map: written by one, read by the other, never pickled and never on a disk."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY_FOLDER = Path("/dev/shm")
"""A folder in memory (Linux). Elsewhere the system's folder for temporary files, thus its page cache, serves."""
_ALIGNMENT = 64


class Slot(NamedTuple):
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    """In bytes."""

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_memory() -> int:
    """Return the descriptor of an empty anonymous file, which a child inherits; it is gone with its last user."""
    folder = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def plan_slots(tensors: Iterable[tuple[str, torch.Size, torch.dtype]]) -> list[Slot]:
    """Lay (name, shape, type) one behind another."""
    slots: list[Slot] = []
    offset = 0
    for name, shape, dtype in tensors:
        slots.append(Slot(name, tuple(shape), dtype, offset))
        offset += -(-slots[-1].num_bytes // _ALIGNMENT) * _ALIGNMENT
    return slots


def map_slots(descriptor: int, slots: list[Slot]) -> dict[str, Tensor]:
    """Return the tensors of the file, which grows to hold them; they live as long as the mapping is referenced."""
    size = max(slot.offset + slot.num_bytes for slot in slots)
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    return {
        slot.name: torch.frombuffer(memory, dtype=slot.dtype, count=math.prod(slot.shape), offset=slot.offset).view(
            slot.shape
        )
        for slot in slots
    }
