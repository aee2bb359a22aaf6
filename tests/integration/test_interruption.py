"""A run that is interrupted anywhere and resumed is the uninterrupted one, bit for bit."""

import os
import signal
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file

from lambda_grpo_pl.callbacks import BenchmarkEvaluation
from lambda_grpo_pl.cli.main import LambdaGRPOCLI
from lambda_grpo_pl.cli.resume import newest_checkpoint
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.scores import QuestionTable
from lambda_grpo_pl.rewards import RewardError
from lambda_grpo_pl.sampling import TransformersSampler
from lambda_grpo_pl.training import module
from tests.chaos.outcome import differences
from tests.integration.runs import digit_share, run

COMMON = [
    "--trainer.callbacks=null",
    "--trainer.max_steps=8",
    "--trainer.val_check_interval=3",
    "--data.val=[{split: test, limit: 4}]",
    "--model.updates.num_minibatches=2",
    "--model.preference.contextual=true",
    "--model.preference.lr=5.0",
    "--dynamic_sampling.max_rounds=1",
    "--reward.functions=[{name: tests.integration.test_interruption.reward}]",
    "--checkpoint.every=1",
]


class Interrupted(Exception):
    """Stands for whatever ends a run."""


Fail = Callable[[], None]
fail_in_reward: Fail = lambda: None  # noqa: E731


def reward(completion: str, example: Mapping[str, Any]) -> float:
    """The share of digits, unless it is told to fail."""
    fail_in_reward()
    return digit_share(completion, example)


def interrupt() -> None:
    """End the run here."""
    raise Interrupted


def after(calls: int, act: Fail) -> Fail:
    """Acts at the call of that number, counted from 1."""
    left = iter(range(calls - 1, -1, -1))

    def fail() -> None:
        if next(left, 1) == 0:
            act()

    return fail


def plant(monkeypatch: pytest.MonkeyPatch, place: str, calls: int, act: Fail | None = None) -> None:
    """Let a run fail in `place` at its n-th call, or do something else there."""
    fail = after(calls, act or interrupt)
    owner, name = {
        "sample": (TransformersSampler, "generate"),
        "update": (module, "accumulate_gradient"),
        "policy step": (module.LambdaGRPO, "_step_policy"),
        "λ step": (module.LambdaGRPO, "_step_preference"),
        "evaluate": (QuestionTable, "majority"),
    }.get(place, (None, ""))
    if owner is None:
        monkeypatch.setattr("tests.integration.test_interruption.fail_in_reward", fail)
        return
    original = getattr(owner, name)

    def failing(*arguments: Any, **named: Any) -> Any:
        fail()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)


@pytest.fixture(scope="module")
def whole(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> LambdaGRPOCLI:
    return run("fit", policy, tmp_path_factory.mktemp("whole"), *COMMON)


def evaluations(cli: LambdaGRPOCLI) -> list[Any]:
    """Every score of every evaluation of a run, those before a resume included."""
    return next(each for each in cli.trainer.callbacks if isinstance(each, BenchmarkEvaluation)).history


def assert_results_are_those_of_the_state(folder: Path, between_updates: bool) -> None:
    """An interrupted run has exported and drawn what its checkpoint holds; inside an update there is no such state."""
    assert (folder / "run.png").is_file() == between_updates
    assert (folder / "policy").is_dir() == between_updates
    if between_updates:
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        exported = load_file(folder / "policy/model.safetensors")
        assert exported
        for name, value in exported.items():
            assert torch.equal(value, state[f"policy.model.{name}"]), name


@pytest.mark.parametrize(
    ("place", "calls"),
    [("sample", 4), ("score", 70), ("update", 5), ("update", 6), ("policy step", 4), ("λ step", 6), ("evaluate", 1)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    whole: LambdaGRPOCLI, policy: Path, tmp_path: Path, place: str, calls: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(monkeypatch, place, calls)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - a reward's error is wrapped with the reward's name
            run("fit", policy, tmp_path, *COMMON)
        assert isinstance(caught.value, Interrupted) or isinstance(caught.value.__cause__, Interrupted)
    assert_results_are_those_of_the_state(tmp_path, between_updates=place in ("sample", "score", "evaluate"))
    resumed = run("fit", policy, tmp_path, *COMMON, "--resume")
    expected, result = whole.model.state_dict(), resumed.model.state_dict()
    assert expected["preference.lam"] != 0.0
    for name, value in expected.items():
        assert torch.equal(result[name], value), name
    assert repr(evaluations(resumed)) == repr(evaluations(whole)) != "[]"  # NaN equals nothing, itself included


def logged(folder: Path) -> list[str]:
    """Options of a run that writes its tables."""
    csv = f"{{class_path: lambda_grpo_pl.callbacks.RunCSVLogger, init_args: {{save_dir: {folder}}}}}"
    return [*COMMON, f"--trainer.logger=[{csv}]", "--monitor.curve_every=1"]


@pytest.fixture(scope="module")
def whole_logged(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole-logged")
    run("fit", policy, folder, *logged(folder))
    return folder


@pytest.mark.parametrize(
    ("number", "place", "calls"),
    [
        (signal.SIGINT, "λ step", 6),  # of 8, before the evaluation that follows the third rollout
        (signal.SIGTERM, "policy step", 3),
        (None, "score", 70),
    ],
)
def test_tables_of_a_resumed_run_hold_every_update_once(
    whole_logged: Path, policy: Path, tmp_path: Path, number: signal.Signals | None, place: str, calls: int
) -> None:
    """A signal inside an update waits for its end; a reward raises between two updates."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(monkeypatch, place, calls, None if number is None else lambda: os.kill(os.getpid(), number))
        with pytest.raises((SystemExit, SIGTERMException, RewardError)):
            run("fit", policy, tmp_path, *logged(tmp_path))
    run("fit", policy, tmp_path, *logged(tmp_path), "--resume")
    assert differences(whole_logged, tmp_path) == []


def test_a_run_with_adapters_resumes_from_them_alone(policy: Path, tmp_path: Path) -> None:
    common = [*COMMON, "--model.policy.lora.rank=4"]
    whole = run("fit", policy, tmp_path / "whole", *common)
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(monkeypatch, "sample", 4)
        with pytest.raises(Interrupted):
            run("fit", policy, tmp_path / "resumed", *common)
    resumed = run("fit", policy, tmp_path / "resumed", *common, "--resume")
    expected, result = (dict(cli.model.named_parameters()) for cli in (whole, resumed))
    assert any("lora_B" in name and weight.any() for name, weight in expected.items())
    for name, weight in expected.items():
        assert torch.equal(result[name], weight), name


def test_a_run_under_the_correlation_rule_resumes_with_its_moving_average(policy: Path, tmp_path: Path) -> None:
    """Interrupted in the fifth of eight updates: λ of the rest depends on what the first four saw."""
    rule = "--model.preference.correlation"
    options = [f"{rule}.high=1.0", f"{rule}.gain=0.5", "--rollout.sampling.max_tokens=24"]
    common = [*(option for option in COMMON if "preference" not in option), *options]
    whole = run("fit", policy, tmp_path / "whole", *common, method="correlation")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(monkeypatch, "update", 5)
        with pytest.raises(Interrupted):
            run("fit", policy, tmp_path / "resumed", *common, method="correlation")
    resumed = run("fit", policy, tmp_path / "resumed", *common, "--resume", method="correlation")
    expected, result = whole.model.state_dict(), resumed.model.state_dict()
    assert 0 < abs(float(expected["preference.lam"])) < 0.5
    assert float(expected["preference.correlation.weight"]) > 3, "updates whose lengths vary"
    for name, value in expected.items():
        assert torch.equal(result[name], value), name


def test_a_second_run_in_a_used_folder_is_refused(whole: LambdaGRPOCLI, policy: Path) -> None:
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        run("fit", policy, Path(whole.trainer.default_root_dir), *COMMON)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model.preference.family=relative_power", "model.preference.family power_softmax .now relative_power"),
        ("--model.preference.learn=fixed", "model.preference.learn surrogate .now fixed"),
        ("--model.optimizer.lr=1e-2", "model.optimizer.lr 0.001 .now 0.01"),
        ("--model.policy.lora.rank=4", r"model.policy.lora null .now \{rank: 4"),
        ("--model.policy.path=builtin:arithmetic-tiny", "model.policy.path policy.* .now builtin:arithmetic-tiny"),
        ("--data.train.path=other.jsonl", "data.train.*other.jsonl"),
    ],
)
@pytest.mark.parametrize("ckpt_path", [False, True], ids=["resume", "ckpt_path"])
def test_what_a_resume_cannot_change_is_refused(
    whole: LambdaGRPOCLI, policy: Path, tmp_path: Path, option: str, sentence: str, ckpt_path: bool
) -> None:
    root = Path(whole.trainer.default_root_dir)
    how = [f"--ckpt_path={root}/checkpoints/last.ckpt"] if ckpt_path else ["--resume"]
    with pytest.raises(UserError, match=f"{sentence}.*set it back, or start a new run"):
        run("fit", policy, tmp_path if ckpt_path else root, *COMMON, *how, option)


def test_a_method_is_checked_where_the_configuration_of_the_run_is_gone(
    whole: LambdaGRPOCLI, policy: Path, tmp_path: Path
) -> None:
    """λ would mean something else halfway through the run."""
    copy = tmp_path / "copy" / "checkpoints" / "last.ckpt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((Path(whole.trainer.default_root_dir) / "checkpoints" / "last.ckpt").read_bytes())
    options = [*COMMON, f"--ckpt_path={copy}", "--model.preference.family=relative_power"]
    with pytest.raises(UserError, match=r"trained with the method lambda_contextual.*relative_power_contextual"):
        run("fit", policy, tmp_path / "run", *options)


def test_a_complete_run_resumes_to_its_end(whole: LambdaGRPOCLI, policy: Path) -> None:
    again = run("fit", policy, Path(whole.trainer.default_root_dir), *COMMON, "--resume")
    assert again.trainer.global_step == whole.trainer.global_step


def test_nothing_to_resume_is_said(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        run("fit", policy, tmp_path, *COMMON, "--resume")


def test_a_truncated_checkpoint_is_skipped(whole: LambdaGRPOCLI, tmp_path: Path) -> None:
    folder = Path(whole.trainer.default_root_dir) / "checkpoints"
    assert newest_checkpoint(folder.parent) == folder / "last.ckpt"
    assert zipfile.is_zipfile(folder / "previous.ckpt")
    content = (folder / "last.ckpt").read_bytes()
    copy = tmp_path / "checkpoints"
    copy.mkdir()
    (copy / "previous.ckpt").write_bytes((folder / "previous.ckpt").read_bytes())
    (copy / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a complete checkpoint"):
        assert newest_checkpoint(tmp_path) == copy / "previous.ckpt"
