"""Finding the trainer's callback of a type: some callbacks use what another one can do."""

from __future__ import annotations

from typing import TypeVar

import lightning as L

CallbackType = TypeVar("CallbackType", bound=L.Callback)


def find_callback(trainer: L.Trainer, kind: type[CallbackType]) -> CallbackType:
    """Return the trainer's first callback of a type. Raises `ValueError` if there is none."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise ValueError(f"{kind.__name__} is missing: add it to the trainer's callbacks.")
