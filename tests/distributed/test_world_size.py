"""Several gloo ranks are one process over ten updates: same losses, gradients, weights and λ, under DDP and FSDP2."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.distributed.train_scored import UPDATES
from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
"""Largest difference of logged values and of the gradient's elements, and of the weights relative to their norm."""


def train(folder: Path, strategy: str, devices: int, preference: str) -> dict:
    out = folder / f"{strategy}-{devices}-{preference}.pt"
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


def slow(strategy: str, preference: str, devices: int) -> object:
    return pytest.param(strategy, preference, devices, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("strategy", "preference", "devices"),
    [
        ("ddp", "batch_power", 2),
        ("fsdp2", "batch_power", 2),
        ("ddp", "correlation", 2),
        ("offload", "lambda_kl", 2),
        slow("hybrid", "lambda_kl", 4),
        *(slow(strategy, "batch_power", 4) for strategy in ("ddp", "fsdp2")),
        *(slow(strategy, "lambda_kl", devices) for strategy in ("ddp", "fsdp2") for devices in (2, 4)),
    ],
)
def test_several_ranks_equal_one_process(
    folder: Path, single: Callable[[str], dict], strategy: str, preference: str, devices: int
) -> None:
    """Sharded or copied, in host memory, sharded inside pairs and replicated across them; the reference likewise.

    With four ranks, one has a single group, which teaches nothing.
    """
    expected, result = single(preference), train(folder, strategy, devices, preference)
    assert result["state"]["preference.lam"].item() != 0.0
    assert result["series"].keys() == expected["series"].keys()
    for name, values in expected["series"].items():
        assert len(values) == UPDATES
        assert result["series"][name] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), name
    assert len(result["gradients"]) == len(expected["gradients"]) == UPDATES
    for ours, theirs in zip(result["gradients"], expected["gradients"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=TOLERANCE)
    assert distance(flat(result["state"]), flat(expected["state"])) < TOLERANCE


def distance(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state)])
