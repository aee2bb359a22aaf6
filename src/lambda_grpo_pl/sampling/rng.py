"""Random draws that leave the caller's generators as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def preserved_torch_rng(seed: int | None = None) -> Iterator[None]:
    """Restore torch's random states afterwards, on the CPU and the current GPU; seed both first if asked."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
