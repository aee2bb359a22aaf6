"""GPUs by name, and the memory that a program finds on them."""

from __future__ import annotations

from typing import NamedTuple

from lambda_grpo_pl.errors import UserError

GIB, MIB = 2**30, 2**20


class Gpu(NamedTuple):
    """One kind of GPU."""

    name: str
    """As `--gpu` names it."""
    memory: int
    """Bytes that torch reports as total memory, rounded down to half a GiB."""


_MEMORY_GIB = {
    "t4": 14.5,
    "v100-16": 15.5,
    "v100-32": 31.5,
    "rtx3090": 23.5,
    "rtx4090": 23.5,
    "rtx5090": 31.0,
    "rtx6000-ada": 47.0,
    "a10": 22.0,
    "a40": 44.5,
    "a100-40": 39.0,
    "a100-80": 79.0,
    "l4": 22.0,
    "l40s": 44.0,
    "h100": 79.0,
    "h200": 139.5,
    "b200": 177.5,
}
"""Total memory by the vendors' data sheets, less what the driver keeps."""


def find_gpu(name: str) -> Gpu:
    """Return the GPU called `name`: one of the table, or a number of GiB such as `48`.

    Raises `UserError` for any other name.
    """
    key = name.lower()
    if key in _MEMORY_GIB:
        return Gpu(key, int(_MEMORY_GIB[key] * GIB))
    try:
        size = float(key)
    except ValueError:
        raise UserError(
            f"--gpu is {name}, which is not in the table: use {', '.join(_MEMORY_GIB)}, or the memory in GiB, such as "
            "48."
        ) from None
    if not size > 0:
        raise UserError(f"--gpu is {name}: give a positive number of GiB.")
    return Gpu(f"{size:g} GiB", int(size * GIB))
