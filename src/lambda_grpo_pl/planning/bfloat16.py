"""Whether this CPU multiplies bfloat16 at a useful speed."""

from __future__ import annotations

import time
from functools import cache

import torch

SIZE = 128
"""Side of the square matrices that are timed: 4 million multiplications, at most milliseconds either way."""
SLOWDOWN = 4.0
"""How many times slower than float32 a product in bfloat16 may be."""


@cache
def bfloat16_slowdown() -> float:
    """Return the time of a small product in bfloat16 over that in float32, on this CPU."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def warn_about_bfloat16() -> str | None:
    """Return a sentence if bfloat16 is much slower than float32 on this CPU, else None."""
    slowdown = bfloat16_slowdown()
    if slowdown < SLOWDOWN:
        return None
    return (
        f"This CPU multiplies bfloat16 {slowdown:.0f} times slower than float32 (it has no instructions for it): set "
        "trainer.precision to 32-true and rollout.engine.dtype to float32."
    )


def _seconds(dtype: torch.dtype) -> float:
    factor = torch.ones(SIZE, SIZE, dtype=dtype)
    factor @ factor
    times = []
    for _ in range(5):
        start = time.perf_counter()
        factor @ factor
        times.append(time.perf_counter() - start)
    return min(times)
