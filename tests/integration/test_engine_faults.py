"""A run whose sampler dies, hangs or returns invalid responses goes on; one whose disk is full ends in a sentence."""

import errno
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.cli import entry
from lambda_grpo_pl.cli.main import LambdaGRPOCLI
from lambda_grpo_pl.cli.resume import newest_checkpoint
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.store import RolloutStore
from lambda_grpo_pl.sampling import SamplerProcess
from tests.integration.runs import arguments, run

NUM_STEPS = 5
OPTIONS = [
    "--trainer.callbacks=null",
    f"--trainer.max_steps={NUM_STEPS}",
    "--trainer.val_check_interval=2",
    "--data.val=[{split: test, limit: 4}]",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
    "--model.preference.lr=5.0",
    "--one_step_off.enabled=true",
    "--model.objective.surrogate.is_correction=truncate",
    "--rollout.recovery.backoff_s=0",
]
Begin = Callable[..., Future[Completions]]


def plant(monkeypatch: pytest.MonkeyPatch, *faults: tuple[int, str]) -> None:
    """Let the sampler process fail right after it was asked for a rollout or an evaluation, at calls from 1."""
    original: Begin = SamplerProcess.begin
    planned, calls = dict(faults), []

    def begin(self: SamplerProcess, prompts: Any, settings: Any, seed: int, on_group: Any = None) -> Any:
        calls.append(seed)
        fault = planned.get(len(calls), "")

        def hear(number: int, group: Completions) -> None:
            if fault == "NaN" and number == 1:
                group = group._replace(logprobs=group.logprobs * float("nan"))
            on_group(number, group)

        future = original(self, prompts, settings, seed, hear)
        if fault in ("SIGKILL", "SIGSTOP"):
            os.kill(self.pid, signal.Signals[fault])
        return future

    monkeypatch.setattr(SamplerProcess, "begin", begin)


def fingerprint(folder: Path, state: dict[str, torch.Tensor]) -> list[Any]:
    """What was sampled, and what became of it."""
    rollouts = [RolloutStore(folder / "rollouts").read(number).batch for number in range(NUM_STEPS)]
    return [*(rollout.sampled().ids.tolist() for rollout in rollouts), *(value.tolist() for value in state.values())]


@pytest.fixture(scope="module")
def whole(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> LambdaGRPOCLI:
    return run("fit", policy, tmp_path_factory.mktemp("whole"), *OPTIONS)


SAID = {"SIGKILL": "killed by signal 9", "SIGSTOP": "sent nothing for 2 s", "NaN": "not finite"}


@pytest.mark.parametrize(
    "faults",
    [[(2, "SIGKILL")], pytest.param([(2, "SIGKILL"), (5, "SIGSTOP"), (7, "NaN")], marks=pytest.mark.slow)],
    ids=["dies", "dies, hangs and lies"],
)
def test_a_run_whose_sampler_fails_is_the_undisturbed_one(
    whole: LambdaGRPOCLI,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    faults: list[tuple[int, str]],
) -> None:
    """Calls 1 to 3 are rollouts 0 to 2, then comes an evaluation."""
    plant(monkeypatch, *faults)
    with caplog.at_level(logging.WARNING):
        hurt = run("fit", policy, tmp_path, *OPTIONS, "--rollout.recovery.timeout_s=2")
    for _, fault in faults:
        assert sum("The sampler failed" in message and SAID[fault] in message for message in caplog.messages) == 1
    assert hurt.trainer.callback_metrics["sampler/restarts"] == len(faults)
    folder = Path(whole.trainer.default_root_dir)
    assert fingerprint(tmp_path, hurt.model.state_dict()) == fingerprint(folder, whole.model.state_dict())
    scores = [path.read_text() for path in sorted((folder / "evaluation").rglob("scores.json"))]
    assert [path.read_text() for path in sorted((tmp_path / "evaluation").rglob("scores.json"))] == scores != []


def test_a_sampler_that_keeps_dying_ends_the_run_in_one_sentence(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, *((call, "SIGKILL") for call in range(2, 9)))
    with pytest.raises(
        UserError, match=r"failed 2 times in a row.*signal 9.*--resume.*rollout\.recovery\.max_restarts"
    ):
        run("fit", policy, tmp_path, *OPTIONS, "--rollout.recovery.max_restarts=1")
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_disk_that_fills_up_ends_the_run_in_one_sentence_and_leaves_a_checkpoint(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third rollout cannot be recorded; whatever file is too much, the end is the same."""
    write, written = RolloutStore.write, []

    def fill_up(self: RolloutStore, record: Any) -> Any:
        written.append(record)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
        return write(self, record)

    monkeypatch.setattr(RolloutStore, "write", fill_up)
    options = [option for option in OPTIONS if "one_step_off" not in option]
    monkeypatch.setattr("sys.argv", ["lambda-grpo", *arguments("fit", policy, tmp_path, *options)])
    assert entry.main() == 2
    assert "lambda-grpo: The disk is full" in capsys.readouterr().err
    assert newest_checkpoint(tmp_path) is not None
