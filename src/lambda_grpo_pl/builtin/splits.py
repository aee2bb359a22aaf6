"""Which split a question belongs to: the built-in tasks' train, validation and test questions never overlap."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar, get_args

from lambda_grpo_pl.errors import UserError

Split = Literal["train", "validation", "test"]
MAX_HELDOUT = 2048
Problem = TypeVar("Problem")


def split_of(question: str) -> Split:
    """Return the split of a question, whatever the seed: 13/16 train, 1/16 validation, 2/16 test."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 16
    if bucket < 13:
        return "train"
    return "validation" if bucket == 13 else "test"


def draw_distinct(draw: Callable[[random.Random], Problem], split: Split, size: int, seed: int) -> Iterator[Problem]:
    """Yield `size` problems; only those of `train` may repeat. Raises `UserError` for an unknown split or size."""
    if split not in get_args(Split):
        raise UserError(f"The built-in tasks have no split {split!r}: use one of {', '.join(get_args(Split))}.")
    if size < 1 or (split != "train" and size > MAX_HELDOUT):
        raise UserError(
            f"The {split} split was asked for {size} questions: held-out splits hold 1 to {MAX_HELDOUT} (train is "
            "unlimited)."
        )
    rng = random.Random(f"{seed}/{split}")
    seen: set[Problem] = set()
    while size:
        problem = draw(rng)
        if split == "train" or problem not in seen:
            seen.add(problem)
            size -= 1
            yield problem
