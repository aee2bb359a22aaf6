"""A few kills of the harness; `python -m tests.chaos --runs 25` makes more, in all kinds of runs."""

import random
from pathlib import Path

import pytest
import torch

from tests.chaos.harness import KINDS, OPTIONS, Harness
from tests.chaos.kill_points import PHASES, Kill, _find
from tests.chaos.outcome import differences
from tests.scored import save_tiny_policy

SHORT = [option for option in OPTIONS if "max_steps" not in option] + ["--trainer.max_steps=4"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp("chaos")
    return Harness(save_tiny_policy(folder / "policy"), folder, SHORT)


KILLS = [
    Kill("backward", 2, 0.001),
    Kill("evaluate", 2, 0.0),  # the evaluation after the last update
    Kill("write checkpoint", 3, 0.0),  # that evaluation is logged, but the last checkpoint does not know it
    Kill("log", 2, 0.0),  # the checkpoint holds the update, the tables do not yet
    Kill("rename checkpoint", 3, 0.0),  # the best checkpoint is written, but the last one does not know it
]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.phase)
def test_a_killed_run_is_resumed_to_the_last_bit(harness: Harness, kill: Kill) -> None:
    result = harness.kill_and_resume("one rank", kill, kill.phase.replace(" ", "-"))
    assert result.killed, result.describe()
    assert not result.differences, result.describe()


def test_the_comparison_sees_a_single_bit(harness: Harness, tmp_path: Path) -> None:
    whole = harness.whole("one rank")
    copy = tmp_path / "copy"
    copy.symlink_to(whole)
    assert differences(whole, copy) == []
    copy.unlink()
    (copy / "checkpoints").mkdir(parents=True)
    for each in whole.iterdir():
        if each.name != "checkpoints":
            (copy / each.name).symlink_to(each)
    state = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    state["state_dict"]["preference.lam"] += 1e-7
    torch.save(state, copy / "checkpoints" / "last.ckpt")
    assert differences(whole, copy) == ["state: /state_dict/preference.lam"]


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_is_a_function_that_exists(phase: str) -> None:
    owner, name = _find(PHASES[phase])
    assert callable(getattr(owner, name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_random_kills_of_every_kind_of_run(kind: str, seed: int, tmp_path: Path) -> None:
    harness = Harness(save_tiny_policy(tmp_path / "policy"), tmp_path, SHORT)
    result = harness.kill_and_resume(kind, harness.draw(kind, random.Random(seed)), "run")
    assert not result.differences, result.describe()
