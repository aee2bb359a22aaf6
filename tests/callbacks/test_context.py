"""What callbacks see of a run is there, and what is missing is named."""

from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from lambda_grpo_pl.callbacks import PhaseTimer, RolloutCallback
from lambda_grpo_pl.callbacks.context import (
    ResultWriter,
    datamodule,
    engine,
    find_callback,
    trained,
    write_what_was_reached,
)
from lambda_grpo_pl.callbacks.module_view import TrainedModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.scored import random_policy


def members(protocol: type) -> dict[str, Any]:
    """Name of each property or method of a protocol → the type it returns."""
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        for name, member in vars(base).items():
            function = member.fget if isinstance(member, property) else member
            if not name.startswith("_") and callable(function):
                found[name] = get_type_hints(function)["return"]
    return found


def assert_offers(value: object, protocol: type, path: str) -> None:
    for name, kind in members(protocol).items():
        assert hasattr(value, name), f"{path}.{name}"
        if getattr(kind, "_is_protocol", False):
            assert_offers(getattr(value, name), kind, f"{path}.{name}")
        elif kind in (str, int, float, bool):
            assert isinstance(getattr(value, name), kind), f"{path}.{name}"


def test_the_module_offers_all_that_callbacks_read() -> None:
    module = LambdaGRPO(PolicyConfig(path="random"))
    module.policy = random_policy()
    assert len(members(TrainedModule)) >= 6
    assert_offers(trained(module), TrainedModule, "module")


def test_a_data_module_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"data module is NoneType: pass a PromptDataModule"):
        datamodule(SimpleNamespace())  # type: ignore[arg-type]


def test_a_callback_is_named_when_it_is_missing() -> None:
    trainer: Any = SimpleNamespace(callbacks=[PhaseTimer(), RolloutCallback()])
    assert find_callback(trainer, PhaseTimer) is trainer.callbacks[0]
    with pytest.raises(UserError, match="RolloutCallback comes after"):
        engine(trainer)
    trainer.callbacks.pop()
    with pytest.raises(UserError, match="RolloutCallback is missing"):
        engine(trainer)
    with pytest.raises(UserError, match="RolloutCallback is missing"):
        find_callback(trainer, RolloutCallback)


def test_what_an_interrupted_run_cannot_write_stops_nothing_else() -> None:
    written = []

    class Full(ResultWriter):
        def write_results(self, trainer: Any, pl_module: Any) -> None:
            raise OSError("no space")

    class Roomy(ResultWriter):
        def write_results(self, trainer: Any, pl_module: Any) -> None:
            written.append(True)

    trainer: Any = SimpleNamespace(callbacks=[Full(), Roomy()])
    with pytest.warns(UserWarning, match="Full could not write its files: no space"):
        write_what_was_reached(trainer, None)  # type: ignore[arg-type]
    assert written
