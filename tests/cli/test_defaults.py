"""Listing callbacks adds them to the default ones."""

from pathlib import Path

from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar

from lambda_grpo_pl.callbacks import RolloutProgressBar
from lambda_grpo_pl.cli.defaults import add_default_callbacks


def kinds(*listed: object, show_progress: bool = True) -> list[str]:
    return [type(each).__name__ for each in add_default_callbacks(listed, Path("run"), show_progress)]  # type: ignore[arg-type]


def test_own_callbacks_are_added_to_the_defaults() -> None:
    assert kinds(LearningRateMonitor()) == ["LearningRateMonitor", "RolloutProgressBar", "ModelCheckpoint"]
    assert add_default_callbacks(None, Path("run"), True)[1].dirpath.endswith("run/checkpoints")
    single = LearningRateMonitor()
    assert add_default_callbacks(single, Path("run"), True)[0] is single


def test_one_of_the_same_kind_takes_the_place_of_a_default() -> None:
    assert kinds(TQDMProgressBar(), ModelCheckpoint()) == ["TQDMProgressBar", "ModelCheckpoint"]


def test_no_progress_bar_is_left_when_it_is_switched_off() -> None:
    assert kinds(RolloutProgressBar(), show_progress=False) == ["ModelCheckpoint"]
