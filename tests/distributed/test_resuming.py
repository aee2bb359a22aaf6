"""A run on two ranks that is resumed ends where the uninterrupted one ends, each rank's rollout ahead included.

Under the other strategy too, whose checkpoints have another layout.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[2]


def fit(policy: Path, out: Path, strategy: str, *checkpoint: str) -> dict:
    out.mkdir()
    command = [sys.executable, "-m", "tests.distributed.fit_resumable", str(policy), str(out), strategy, *checkpoint]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict = torch.load(out / "result.pt", weights_only=True)
    return result


@pytest.mark.parametrize(
    ("strategy", "resumed_under", "rank"),
    [
        ("fsdp2", "fsdp2", "0"),
        pytest.param("ddp", "ddp", "0", marks=pytest.mark.slow),
        pytest.param("ddp", "fsdp2", "0", marks=pytest.mark.slow),
        pytest.param("fsdp2", "ddp", "0", marks=pytest.mark.slow),
        pytest.param("fsdp2", "fsdp2", "4", marks=pytest.mark.slow),
        pytest.param("fsdp2", "ddp", "4", marks=pytest.mark.slow),
        pytest.param("ddp", "fsdp2", "4", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_on_two_ranks_is_the_uninterrupted_one(
    tmp_path: Path, strategy: str, resumed_under: str, rank: str
) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    whole = fit(policy, tmp_path / "whole", strategy, rank)
    checkpoint = next((tmp_path / "whole").glob("*step=2.ckpt"))
    resumed = fit(policy, tmp_path / "resumed", resumed_under, rank, str(checkpoint))
    assert whole["state"]["preference.lam"] != 0.0
    for name, value in whole["state"].items():
        assert torch.equal(resumed["state"][name], value), name
    assert {name: values[-2:] for name, values in whole["series"].items()} == {
        name: values[-2:] for name, values in resumed["series"].items()
    }
