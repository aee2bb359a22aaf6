"""The watchdog names the rank that the others wait for, its phase, and where every rank is."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lambda_grpo_pl.callbacks import watchdog
from lambda_grpo_pl.callbacks.phases import CLOCK
from lambda_grpo_pl.callbacks.watchdog import LocalBoard, Status, Watch, Watchdog, describe_standstill
from lambda_grpo_pl.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_rank_that_is_behind_is_named_with_its_phase() -> None:
    ranks = [Status(9, "train", 30.0), Status(8, "sample", 31.0), Status(9, "train", 29.0)]
    sentence = describe_standstill(ranks, 20.0)
    assert "no progress for 20 s: rank 1 has been in sample for 31 s; waiting for it: rank 0 in train" in sentence


def watch_for(seconds: float, timeout: float, enter: bool) -> None:
    CLOCK.enter("sample")
    watch = Watch(0, timeout, LocalBoard())
    watch.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
        if enter:
            CLOCK.enter("sample")
    watch.stop()


def test_a_phase_beyond_the_bound_is_reported_once_with_the_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "LOOKS", 5)
    watch_for(0.8, timeout=0.3, enter=False)
    said = capsys.readouterr().err
    assert said.count("rank 0 has been in sample") == 1
    assert "watch_for" in said


def test_a_run_that_goes_on_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    watch_for(0.8, timeout=0.3, enter=True)
    assert capsys.readouterr().err == ""


def test_it_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    off = Watchdog(timeout=0)
    off.setup(None, None, "fit")  # type: ignore[arg-type]  # neither is asked
    assert off._watch is None
    with pytest.raises(UserError, match=r"watchdog\.timeout"):
        Watchdog(timeout=-1)


def test_two_ranks_of_which_one_sleeps(policy: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed.fit_watched", str(policy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 1 has been in score for" in done.stderr
    assert "waiting for it: rank 0 in" in done.stderr
    assert "stack of rank 0" in done.stderr
    assert "stack of rank 1, in score" in done.stderr
    assert "wait_for_a_reward_that_hangs" in done.stderr
