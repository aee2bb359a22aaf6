"""`lambda-grpo serve`: the server that a configuration needs."""

from pathlib import Path

import pytest

from lambda_grpo_pl.cli.serve import main

ROOT = Path(__file__).parents[2]


def test_the_printed_command_fits_the_configuration(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = [
        f"--config={ROOT}/configs/base.yaml",
        f"--config={ROOT}/configs/strategy/server.yaml",
        f"--model.policy.path={policy}",
        "--data.rules.max_prompt_tokens=40",
        "--rollout.sampling.max_tokens=24",
        "--rollout.engine.dtype=bfloat16",
    ]
    assert main([*stack, "--port", "8123"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("VLLM_SERVER_DEV_MODE=1 ")
    for part in (f"--model {policy}", "--port 8123", "--host 127.0.0.1", "--dtype bfloat16", "--max-model-len 64"):
        assert part in line
