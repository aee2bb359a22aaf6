"""The trainer's callbacks that every run has unless `trainer.callbacks` lists one of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar

from lambda_grpo_pl.callbacks import RolloutProgressBar
from lambda_grpo_pl.callbacks.checkpoint import FOLDER


def add_default_callbacks(
    callbacks: Sequence[Callback] | Callback | None, root: Path, show_progress: bool
) -> list[Callback]:
    """Return the user's callbacks with a progress bar and a checkpoint of the best state.

    Args:
        callbacks: What `trainer.callbacks` lists.
        root: The run's folder.
        show_progress: False drops every progress bar.
    """
    listed = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
    if not show_progress:
        listed = [each for each in listed if not isinstance(each, ProgressBar)]
    elif not any(isinstance(each, ProgressBar) for each in listed):
        listed.append(RolloutProgressBar())
    if not any(isinstance(each, ModelCheckpoint) for each in listed):
        listed.append(
            ModelCheckpoint(
                root / FOLDER,
                "best-{step}",
                monitor="val/average",
                mode="max",
                enable_version_counter=False,  # a file of this name is what a killed run wrote before it was resumed
            )
        )
    return listed
