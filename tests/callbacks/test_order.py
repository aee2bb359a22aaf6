"""Callbacks that are missing, repeated or out of order are refused before a model is loaded."""

import inspect
from itertools import combinations
from pathlib import Path
from typing import get_args, get_type_hints

import lightning as L
import pytest

from lambda_grpo_pl.callbacks import (
    BenchmarkEvaluation,
    OneStepOff,
    PhaseTimer,
    RewardCallback,
    RolloutCallback,
    check_order,
    default_callbacks,
)
from lambda_grpo_pl.callbacks.order import SECTIONS
from lambda_grpo_pl.callbacks.order_check import ORDER
from lambda_grpo_pl.cli.main import build
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.integration.runs import ROOT


def test_default_callbacks_are_the_sections_in_order_and_keep_what_is_given() -> None:
    hints = get_type_hints(default_callbacks)
    del hints["return"]
    assert {name: get_args(hint)[0] for name, hint in hints.items()} == SECTIONS
    assert all(each.kind is each.KEYWORD_ONLY for each in inspect.signature(default_callbacks).parameters.values())
    reward, timer = RewardCallback(), PhaseTimer()
    callbacks = default_callbacks(timer=timer, reward=reward)
    assert [type(callback) for callback in callbacks] == list(SECTIONS.values())
    places = list(SECTIONS)
    assert callbacks[places.index("reward")] is reward
    assert callbacks[places.index("timer")] is timer
    check_order(callbacks, evaluates=True)


def test_the_order_that_is_checked_is_that_of_the_sections() -> None:
    assert tuple(kind.__name__ for kind in SECTIONS.values()) == ORDER


def test_the_command_line_has_the_same_callbacks_in_the_same_order(policy: Path, tmp_path: Path) -> None:
    arguments = [f"--config={ROOT}/configs/base.yaml", f"--model.policy.path={policy}", "--trainer.logger=false"]
    cli = build([*arguments, f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"], run=False)
    kinds = tuple(SECTIONS.values())
    assert [type(each) for each in cli.trainer.callbacks if isinstance(each, kinds)] == list(kinds)


@pytest.mark.parametrize(("first", "second"), combinations(range(len(SECTIONS)), 2))
def test_any_two_out_of_order_are_refused(first: int, second: int) -> None:
    callbacks = default_callbacks()
    names = [type(callbacks[place]).__name__ for place in (first, second)]
    callbacks.insert(second, callbacks.pop(first))
    with pytest.raises(UserError, match=rf" comes after .*in the order .*{names[0]}.*{names[1]}"):
        check_order(callbacks, evaluates=True)


def test_the_sentence_names_the_two_that_are_out_of_order() -> None:
    callbacks = [RolloutCallback(), RewardCallback(), PhaseTimer(), OneStepOff()]
    with pytest.raises(UserError, match=r"^OneStepOff comes after PhaseTimer: list"):
        check_order(callbacks, evaluates=False)


def test_callbacks_of_other_kinds_may_be_anywhere() -> None:
    callbacks = [each for callback in default_callbacks() for each in (L.Callback(), callback)]
    check_order(callbacks, evaluates=True)


def test_two_of_a_kind_are_refused() -> None:
    with pytest.raises(UserError, match="two callbacks of type RewardCallback: remove one"):
        check_order([RolloutCallback(), RewardCallback(), RewardCallback()], evaluates=False)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match="RolloutCallback is missing"):
        check_order([], evaluates=False)
    with pytest.raises(UserError, match="RewardCallback is missing"):
        check_order([RolloutCallback()], evaluates=False)
    check_order([RolloutCallback(), RewardCallback()], evaluates=False)
    with pytest.raises(UserError, match=r"BenchmarkEvaluation is missing: .*val=\[\]"):
        check_order([RolloutCallback(), RewardCallback()], evaluates=True)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([RewardCallback()], "RolloutCallback is missing"),
        ([RewardCallback(), RolloutCallback()], "RolloutCallback comes after a callback that uses its engine"),
        ([RolloutCallback()], "RewardCallback is missing"),
        ([RolloutCallback(), RewardCallback()], "BenchmarkEvaluation is missing"),
        ([RolloutCallback(), RewardCallback(), PhaseTimer(), BenchmarkEvaluation()], "BenchmarkEvaluation comes after"),
    ],
)
def test_a_run_checks_before_weights_load(
    callbacks: list[L.Callback], message: str, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_grpo_pl.training.module.load_policy", lambda *_: pytest.fail("weights were loaded"))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(default_root_dir=tmp_path, max_steps=1, callbacks=callbacks, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        trainer.fit(LambdaGRPO(PolicyConfig(path=str(policy))), datamodule=PromptDataModule(str(policy)))
