"""Two configurations of one run: what a resume would ignore is refused, what takes effect is not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lambda_grpo_pl.cli.keys import Key
from lambda_grpo_pl.cli.resume_settings import FIXED, check_same_settings, find_run_config
from lambda_grpo_pl.errors import UserError

BEFORE: dict[str, Any] = {
    "model": {"policy": {"path": "/old/place/qwen", "lora": None}, "optimizer": {"lr": 1e-5, "max_grad_norm": 1.0}},
    "data": {"train": {"path": "a/b.jsonl", "template": "plain"}, "batch_size": 4},
    "rollout": {"sampling": {"max_tokens": 64}},
}


def changed(section: str, **values: Any) -> dict[str, Any]:
    return {**BEFORE, section: {**BEFORE[section], **values}}


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (changed("data", batch_size=8), r"data.batch_size 4 \(now 8\)"),
        (changed("data", train=None), r"data.train \{path: a/b.jsonl, template: plain\} \(now null\)"),
        (changed("data", train={"path": "a/b.jsonl", "template": "chat"}), r"data.train.template plain \(now chat\)"),
        (changed("data", train={"path": "a/c.jsonl", "template": "plain"}), r"data.train.path b.jsonl \(now c.jsonl\)"),
        (changed("model", policy={"path": "qwen", "lora": {"rank": 8}}), r"model.policy.lora null \(now \{rank: 8\}\)"),
        (changed("model", optimizer={"lr": 1e-4}), r"model.optimizer.lr 1e-05 \(now 0.0001\)"),
    ],
)
def test_what_would_be_ignored_is_refused(now: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_same_settings(BEFORE, now)


@pytest.mark.parametrize(
    "now",
    [
        changed("rollout", sampling={"max_tokens": 128}),
        changed("model", policy={"path": "/new/place/qwen/", "lora": None}, optimizer={"lr": 1e-5, "max_grad_norm": 2}),
        changed("data", train={"path": "/mnt/b.jsonl", "template": "plain"}),
    ],
    ids=["sampling takes effect", "a model folder has moved", "a file has moved"],
)
def test_what_takes_effect_may_change(now: dict[str, Any]) -> None:
    check_same_settings(BEFORE, now)


def test_the_fixed_settings_exist(keys: dict[str, Key]) -> None:
    for name in FIXED:
        assert any(f"{key}.".startswith(f"{name}.") for key in keys), name


def test_the_configuration_lies_beside_the_checkpoints(tmp_path: Path) -> None:
    assert find_run_config(str(tmp_path / "checkpoints" / "last.ckpt")) is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BEFORE))
    assert find_run_config(str(tmp_path / "checkpoints" / "last.ckpt")) == BEFORE
