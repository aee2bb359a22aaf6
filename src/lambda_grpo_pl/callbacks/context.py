"""What callbacks see of the run, typed: the data module, the module that trains, and the rollout engine.

Lightning's `Trainer` and `LightningModule` know nothing of this package. Only here is an object looked up on the
trainer, or a module taken for what it is.
"""

from __future__ import annotations

from typing import TypeVar, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lambda_grpo_pl.callbacks.module_view import TrainedModule
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rollout.engine import RolloutEngine

CallbackType = TypeVar("CallbackType", bound=L.Callback)


class EngineOwner(L.Callback):
    """The callback that makes the rollout engine in `setup`; `RolloutCallback` is the one that ships."""

    rollout_engine: RolloutEngine | None = None


class ResultWriter(L.Callback):
    """A callback that leaves files when a fit ends, and also when it is interrupted: then once the state is saved."""

    def write_results(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files; called on every rank, between two updates."""
        raise NotImplementedError

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write them at the end of a fit."""
        self.write_results(trainer, pl_module)


def datamodule(trainer: L.Trainer) -> PromptDataModule:
    """Return the run's data module. Raises `UserError` if it is not a `PromptDataModule`."""
    found = getattr(trainer, "datamodule", None)
    if not isinstance(found, PromptDataModule):
        raise UserError(
            f"The trainer's data module is {type(found).__name__}: pass a PromptDataModule, as in "
            "trainer.fit(module, datamodule=data)."
        )
    return found


def trained(module: L.LightningModule) -> TrainedModule:
    """Return the module as what callbacks may read of it."""
    return cast(TrainedModule, module)


def callbacks(trainer: L.Trainer) -> list[L.Callback]:
    """Return the trainer's callbacks in hook order."""
    return cast(list[L.Callback], trainer.callbacks)  # type: ignore[attr-defined]


def engine(trainer: L.Trainer) -> RolloutEngine:
    """Return the run's rollout engine. Raises `UserError` if no callback before the caller has made one."""
    found = find_callback(trainer, EngineOwner).rollout_engine
    if found is None:
        raise UserError(
            "RolloutCallback comes after a callback that uses its engine: list it first in the trainer's callbacks, "
            "or pass default_callbacks()."
        )
    return found


def find_callback(trainer: L.Trainer, kind: type[CallbackType]) -> CallbackType:
    """Return the trainer's first callback of a type. Raises `UserError` if there is none."""
    for callback in callbacks(trainer):
        if isinstance(callback, kind):
            return callback
    name = "RolloutCallback" if kind is EngineOwner else kind.__name__
    raise UserError(f"{name} is missing: add it to the trainer's callbacks, or pass default_callbacks().")


def write_what_was_reached(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Have every `ResultWriter` write its files of an interrupted fit; what one cannot write is only warned about."""
    for callback in callbacks(trainer):
        if isinstance(callback, ResultWriter):
            try:
                callback.write_results(trainer, pl_module)
            except Exception as error:  # the error that ended the run is the one to report
                rank_zero_warn(f"{type(callback).__name__} could not write its files: {error}")
