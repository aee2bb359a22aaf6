"""The fenced blocks of docs/verifier.md are valid: YAML builds a suite, Python runs."""

import re
from pathlib import Path

import yaml

from lambda_grpo_pl.rewards import REGISTRY, PoolConfig, RewardSpec, RewardSuite

PAGE = (Path(__file__).parents[2] / "docs/verifier.md").read_text(encoding="utf-8")


def read_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_yaml_is_valid_configuration():
    (block,) = read_blocks("yaml")
    section = yaml.safe_load(block)["reward"]
    assert set(section) == {"functions", "pool", "on_failure"}
    specs = [RewardSpec(**item) for item in section["functions"]]
    assert len(RewardSuite(specs, PoolConfig(**section["pool"]), section["on_failure"]).specs) == 3


def test_python_runs():
    (block,) = read_blocks("python")
    try:
        exec(compile(block, "docs/verifier.md", "exec"), {})
        assert "mentions_pi" in REGISTRY
    finally:
        REGISTRY.pop("mentions_pi", None)
