"""A rollout that was written is read again tensor for tensor; the folder stays within its bounds."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.learning import find_start
from lambda_grpo_pl.replay.record import COLUMNS, Facts, RolloutRecord
from lambda_grpo_pl.replay.store import RolloutStore
from tests.callbacks.test_checkpoint import full_disk
from tests.scored import scored_batch

AWKWARD = "\ud800 broken \x00\x1b[31m <|im_end|> <script>"
"""Half a surrogate pair, control characters, chat markers and HTML."""


def batch_of(number: int, rank: int = 0) -> RolloutBatch:
    batch = scored_batch(number, num_prompts=2, first=2 * rank)
    batch.prompts = batch.prompts._replace(examples=({"id": f"{rank}a", "answer": 7}, {"id": "b", "answer": AWKWARD}))
    verdicts = (("ok", AWKWARD), ("no_answer", None)) * 4
    batch.rewards = batch.scored()._replace(verdicts=verdicts)
    return batch


def record_of(number: int, rank: int = 0, world_size: int = 1) -> RolloutRecord:
    batch = batch_of(number, rank)
    shape = batch.sampled().ids.shape
    generator = torch.Generator().manual_seed(number)
    facts = Facts(
        rollout=number,
        first_update=2 * number,
        last_update=2 * number + 2,
        weights_version=number,
        rank=rank,
        world_size=world_size,
        metrics={"policy/gradient_norm": 0.1, "policy/loss": math.nan},
    )
    learned = {name: torch.randn(shape[0], generator=generator) for name in ("advantages", "surrogates")}
    learned["f"] = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[1]) < batch.sampled().lengths[:, None]
    learned["old"] = torch.randn(shape, generator=generator) * mask
    return RolloutRecord(facts=facts, batch=batch, learned=learned)


def mask_of(batch: RolloutBatch) -> torch.Tensor:
    return torch.arange(batch.sampled().ids.shape[1]) < batch.sampled().lengths[:, None]


def test_every_tensor_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    written = record_of(3)
    written.batch.heldout = batch_of(9)
    store = RolloutStore(tmp_path)
    store.write(written)
    found = store.read(3)
    assert found.batch.heldout is not None
    for ours, theirs in ((written.batch, found.batch), (written.batch.heldout, found.batch.heldout)):
        mask = mask_of(ours)
        for row in range(ours.num_prompts):
            assert ours.prompts.tokens(row) == theirs.prompts.tokens(row)
        assert ours.prompts.ids.shape == theirs.prompts.ids.shape
        a, b = ours.sampled(), theirs.sampled()
        assert torch.equal(a.ids * mask, b.ids)
        assert torch.equal(a.logprobs * mask, b.logprobs)
        assert torch.equal(a.lengths, b.lengths)
        assert torch.equal(a.truncated, b.truncated)
        for name in ("total", "correct", "active"):
            assert torch.equal(getattr(ours.scored(), name), getattr(theirs.scored(), name))
        assert torch.equal(ours.scored().parts["exact"], theirs.scored().parts["exact"])
    assert all(torch.equal(written.learned[name], found.learned[name]) for name in written.learned)
    assert found.facts.metrics["policy/gradient_norm"] == 0.1
    assert math.isnan(found.facts.metrics["policy/loss"])


def test_any_text_can_be_kept_and_read_by_pandas(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(record_of(0))
    store.write(record_of(1))
    rows = pandas.read_parquet(tmp_path)
    assert list(rows.columns) == [*COLUMNS, "reward_exact"]
    assert len(rows) == 16
    expected = AWKWARD.replace("\ud800", "?")
    assert set(rows["extracted"].dropna()) == {expected}
    assert set(rows["answer"]) == {"7", expected}


def test_two_ranks_are_read_as_one_process(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(record_of(0, rank=0, world_size=2))
    with pytest.raises(UserError, match="1 of 2 ranks"):
        store.read(0)
    store.write(record_of(0, rank=1, world_size=2))
    joined = store.read(0).batch
    whole = scored_batch(0)
    assert torch.equal(joined.sampled().lengths, whole.sampled().lengths)
    assert torch.equal(joined.scored().total, whole.scored().total)
    assert joined.num_prompts == 4
    assert [joined.prompts.tokens(row) for row in range(4)] == [whole.prompts.tokens(row) for row in range(4)]


def test_the_oldest_go_first_and_the_newest_never(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for number in range(6):
        size = store.write(record_of(number)).stat().st_size
    store.bound(4, math.inf, rank=0)
    assert [facts.rollout for facts in store.list_facts()] == [2, 3, 4, 5]
    store.bound(4, 2.5 * size, rank=0)
    assert [facts.rollout for facts in store.list_facts()] == [4, 5]
    store.bound(4, 1.0, rank=0)
    assert [facts.rollout for facts in store.list_facts()] == [5]


def test_what_is_made_again_is_dropped(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for number in range(4):
        store.write(record_of(number))
    store.forget_from(2, rank=0)
    assert [facts.rollout for facts in store.list_facts()] == [0, 1]


def test_updates_are_found_in_their_rollout(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for number in (1, 2):
        store.write(record_of(number))
    assert [store.find(update).rollout for update in (3, 4, 5, 6)] == [1, 1, 2, 2]
    with pytest.raises(UserError, match="rollouts of updates 3 to 6"):
        store.find(7)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    path = store.write(record_of(0))
    path.write_bytes(path.read_bytes()[:200])
    assert store.list_facts() == []
    with pytest.raises(UserError, match=r"rollout-000000-rank0\.parquet cannot be read"):
        store.read(0)


def test_a_full_disk_leaves_the_rollouts_before_and_no_piece(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(record_of(0))
    big = record_of(1)
    big.batch.prompts = big.batch.prompts._replace(
        examples=tuple(example | {"answer": os.urandom(200_000).hex()} for example in big.batch.prompts.examples)
    )
    with full_disk(), pytest.raises(OSError, match="File too large"):
        store.write(big)
    assert os.listdir(tmp_path) == ["rollout-000000-rank0.parquet"]
    assert store.read(0).facts.rollout == 0
    store.write(big)
    assert store.read(1).facts.rollout == 1


def test_the_nearest_state_that_can_be_reached_is_taken(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts")
    for number in (2, 3, 4, 6, 7):
        record = record_of(number)
        store.write(replace(record))
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for number in (2, 6):
        torch.save({"PromptDataModule": {"position": {"num_batches": number}}}, checkpoints / f"{number}.ckpt")
    assert find_start(checkpoints, store, 4).rollout == 2
    assert find_start(checkpoints, store, 7).rollout == 6
    assert find_start(checkpoints, store, 6).rollout == 6
    with pytest.raises(UserError, match="Rollout 1 cannot be reached"):
        find_start(checkpoints, store, 1)
