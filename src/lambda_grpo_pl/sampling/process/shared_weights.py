"""Weights in memory that two processes map: one writes, the other reads; nothing is pickled or written to disk."""

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

from lambda_grpo_pl.errors import UserError

MEMORY_FOLDER = Path("/dev/shm")
"""A folder in memory (Linux). Other systems use the folder for temporary files and its page cache."""
_ALIGNMENT = 64


class Slot(NamedTuple):
    """Where a tensor is in the shared memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    """In bytes."""

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_memory() -> int:
    """Return the descriptor of an empty anonymous file, which a child inherits; it disappears with its last user."""
    folder = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def plan_slots(tensors: Iterable[tuple[str, torch.Size, torch.dtype]], cast: torch.dtype | None = None) -> list[Slot]:
    """Place tensors of (name, shape, type) one after another; floating-point ones as type `cast` if it is given."""
    slots: list[Slot] = []
    offset = 0
    for name, shape, own_dtype in tensors:
        dtype = own_dtype if cast is None or not own_dtype.is_floating_point else cast
        slots.append(Slot(name, tuple(shape), dtype, offset))
        offset += -(-slots[-1].num_bytes // _ALIGNMENT) * _ALIGNMENT
    return slots


def map_slots(descriptor: int, slots: list[Slot]) -> dict[str, Tensor]:
    """Return the tensors of the file, which grows to hold them; they live as long as the mapping is referenced.

    Raises `UserError` if the memory cannot be reserved. Without reserving it, the first write past the limit of
    /dev/shm would end the process with a bus error and no message.
    """
    size = max(slot.offset + slot.num_bytes for slot in slots)
    if os.fstat(descriptor).st_size < size:
        _reserve(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    return {
        slot.name: torch.frombuffer(memory, dtype=slot.dtype, count=math.prod(slot.shape), offset=slot.offset).view(
            slot.shape
        )
        for slot in slots
    }


def _reserve(descriptor: int, size: int) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
    except OSError as error:
        raise UserError(
            f"The sampler process needs {size / 2**30:.2f} GiB of shared memory in {MEMORY_FOLDER}, which cannot be "
            f"reserved ({error.strerror}): enlarge it (docker run --shm-size, or mount -o remount,size=), set "
            "rollout.engine.dtype to bfloat16, or set one_step_off.enabled to false."
        ) from error
