"""Whole runs through the command line's own entry, on a tiny random policy and the built-in task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lambda_grpo_pl.cli.main import LambdaGRPOCLI, build

ROOT = Path(__file__).parents[2]


def digit_share(completion: str, example: Mapping[str, Any]) -> float:
    """A reward that any policy can raise: the share of digits."""
    return sum(character.isdigit() for character in completion) / max(1, len(completion))


def one_line(completion: str, example: Mapping[str, Any]) -> bool:
    """Right if the response is one line, as templates whose stop string is a line break promise."""
    return "\n" not in completion


def arguments(command: str, policy: Path, folder: Path, *options: str, method: str = "lambda") -> list[str]:
    """`lambda-grpo <command>` with the base and a method's configuration, small enough for a test."""
    return [
        command,
        f"--config={ROOT}/configs/base.yaml",
        f"--config={ROOT}/configs/preference/{method}.yaml",
        f"--model.policy.path={policy}",
        f"--trainer.default_root_dir={folder}",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false",
        "--rollout.sampler=transformers",
        "--rollout.sampling.num_samples=4",
        "--rollout.sampling.max_tokens=8",
        "--data.batch_size=4",
        "--table.every=0",
        "--model.optimizer.lr=1e-3",
        *options,
    ]


def run(command: str, policy: Path, folder: Path, *options: str, method: str = "lambda") -> LambdaGRPOCLI:
    """Run that command in this process; returns what it built."""
    return build(arguments(command, policy, folder, *options, method=method))
