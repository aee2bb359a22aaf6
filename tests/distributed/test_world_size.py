"""Two gloo ranks are one process: same gradients, same weights, same λ, under DDP and under FSDP2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[2]


def train(folder: Path, out: Path, strategy: str, devices: int) -> dict:
    command = [sys.executable, "-m", "tests.distributed.train_scored", str(folder), str(out), strategy, str(devices)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict = torch.load(out, weights_only=True)
    return result


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = save_tiny_policy(tmp_path_factory.mktemp("tiny"))
    return folder, train(folder, folder / "single.pt", "auto", 1)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one_process(single: tuple[Path, dict], strategy: str) -> None:
    folder, expected = single
    result = train(folder, folder / f"{strategy}.pt", strategy, 2)
    torch.testing.assert_close(torch.tensor(result["path"]), torch.tensor(expected["path"]), rtol=1e-4, atol=1e-6)
    assert result["state"]["preference.lam"].item() != 0.0
    for name, value in expected["state"].items():
        torch.testing.assert_close(result["state"][name], value, atol=3e-5, rtol=1e-3, msg=name)
