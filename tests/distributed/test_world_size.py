"""Several gloo ranks are one process: same gradients, same weights, same λ, under DDP and FSDP2."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[2]


def train(folder: Path, strategy: str, devices: int, preference: str) -> dict:
    out = folder / f"{strategy}-{preference}.pt"
    command = [sys.executable, "-m", "tests.distributed.train_scored", str(folder), str(out), strategy, str(devices)]
    done = subprocess.run([*command, preference], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict = torch.load(out, weights_only=True)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def single(folder: Path) -> Callable[[str], dict]:
    """What one process ends with, by preference; each is trained once."""
    return cache(lambda preference: train(folder, "auto", 1, preference))


@pytest.mark.parametrize(
    ("strategy", "preference", "devices"),
    [
        ("ddp", "batch_power", 2),
        ("fsdp2", "batch_power", 2),
        ("ddp", "correlation", 2),
        ("offload", "lambda_kl", 2),
        pytest.param("hybrid", "lambda_kl", 4, marks=pytest.mark.slow),
    ],
)
def test_several_ranks_equal_one_process(
    folder: Path, single: Callable[[str], dict], strategy: str, preference: str, devices: int
) -> None:
    """Sharded or copied, in host memory, sharded inside pairs and replicated across them; the reference likewise."""
    expected, result = single(preference), train(folder, strategy, devices, preference)
    torch.testing.assert_close(torch.tensor(result["path"]), torch.tensor(expected["path"]), rtol=1e-4, atol=1e-6)
    assert result["state"]["preference.lam"].item() != 0.0
    for name, value in expected["state"].items():
        torch.testing.assert_close(result["state"][name], value, atol=3e-5, rtol=1e-3, msg=name)
