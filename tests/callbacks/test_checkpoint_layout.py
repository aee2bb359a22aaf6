"""A checkpoint file becomes a folder of shards and a file again, and nothing changes on the way."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lambda_grpo_pl.callbacks.checkpoint_io import describe_damage
from lambda_grpo_pl.callbacks.checkpoint_layout import PARAMETERS, merge_shards, split_file
from lambda_grpo_pl.cli.resume import convert_checkpoint
from lambda_grpo_pl.errors import UserError
from tests.integration.runs import run


@pytest.fixture(scope="module")
def file(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short fit with AdamW and λ's SGD, which has no state."""
    folder = tmp_path_factory.mktemp("run")
    reward = "--reward.functions=[{name: tests.integration.runs.digit_share}]"
    run("fit", policy, folder, "--trainer.max_steps=2", "--trainer.callbacks=null", "--data.val=null", reward)
    return folder / "checkpoints" / "last.ckpt"


def load(file: Path) -> dict[str, Any]:
    return dict(torch.load(file, weights_only=True))


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    """Equal in structure and to the last bit."""
    assert isinstance(second, dict) if isinstance(first, dict) else type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, each in enumerate(first):
            assert_equal(each, second[number], f"{where}.{number}")
    else:
        assert first == second, where


def test_a_file_survives_the_way_to_shards_and_back(file: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    split_file(file, shards)
    assert describe_damage(shards) is None
    merge_shards(shards, tmp_path / "back.ckpt")
    assert describe_damage(tmp_path / "back.ckpt") is None
    before, after = load(file), load(tmp_path / "back.ckpt")
    assert [len(optimizer["state"]) > 0 for optimizer in before["optimizer_states"]] == [True, False]
    assert_equal(before, after)
    assert list(before["state_dict"]) == list(after["state_dict"])


def test_a_damaged_shard_is_seen(file: Path, tmp_path: Path) -> None:
    split_file(file, tmp_path)
    shard = next(tmp_path.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert describe_damage(tmp_path) == f"the checksum of {shard.name} does not match"


def test_a_strategy_gets_what_it_reads(file: Path) -> None:
    assert convert_checkpoint(str(file), "ddp") == str(file)
    shards = convert_checkpoint(str(file), "ModelParallelStrategy")
    assert Path(shards).is_dir()
    assert convert_checkpoint(str(file), "ModelParallelStrategy") == shards, "made once"
    assert convert_checkpoint(shards, "ModelParallelStrategy") == shards
    back = convert_checkpoint(shards, "auto")
    assert Path(back).is_file()
    assert_equal(load(file), load(Path(back)))
    assert [path.name for path in file.parent.glob("*.ckpt")] == ["last.ckpt"], "--resume does not find the copies"


def test_a_file_without_names_is_refused(file: Path, tmp_path: Path) -> None:
    checkpoint = load(file)
    del checkpoint[PARAMETERS]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="does not say which optimizer state"):
        split_file(tmp_path / "old.ckpt", tmp_path / "shards")
