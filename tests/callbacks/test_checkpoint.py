"""Checkpoints are on the disk and whole before they have their name, and the one before goes only then."""

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lambda_grpo_pl.callbacks.checkpoint import LatestCheckpoint
from lambda_grpo_pl.callbacks.checkpoint_io import DurableCheckpointIO, describe_damage, seal_shards
from lambda_grpo_pl.callbacks.interrupts import Interrupts, PreemptedException
from lambda_grpo_pl.cli.resume import newest_checkpoint
from lambda_grpo_pl.errors import UserError

STATE = {"global_step": 7, "weights": torch.arange(40_000.0)}


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 50 kB: the system's own way to fail a write in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    DurableCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_a_saved_checkpoint_is_read_again_and_nothing_else_is_left(saved: Path) -> None:
    assert describe_damage(saved) is None
    assert torch.equal(DurableCheckpointIO().load_checkpoint(saved)["weights"], STATE["weights"])
    assert os.listdir(saved.parent) == ["a.ckpt"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(saved: Path) -> None:
    before = saved.read_bytes()
    with full_disk(), pytest.raises(UserError, match=r"disk is full.*a\.ckpt.*--resume"):
        DurableCheckpointIO().save_checkpoint(STATE | {"global_step": 8}, saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["a.ckpt"]


def test_what_torch_reads_without_a_word_is_found_damaged(saved: Path) -> None:
    flip_byte(saved)
    torch.load(saved, weights_only=True)  # does not look at checksums
    assert "checksum" in (describe_damage(saved) or "")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_found_damaged(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert describe_damage(saved)


def test_a_record_that_starts_beyond_the_file_is_found_damaged(saved: Path) -> None:
    """The length of a header's extra field, which zip's reader believes: reading ends with EOFError, without a word."""
    content = bytearray(saved.read_bytes())
    content[content.rfind(b"PK\x03\x04") + 29] ^= 1 << 7
    saved.write_bytes(content)
    assert describe_damage(saved) == "reading it ends with EOFError"


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_loading_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    torch.save({"payload": Payload()}, "bad.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        DurableCheckpointIO().load_checkpoint("bad.ckpt", weights_only=False)
    assert not Path("executed").exists()


def test_a_folder_of_shards_is_verified_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.ckpt"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (folder / name).write_bytes(os.urandom(1000))
    assert describe_damage(folder) == "meta.pt is missing"
    torch.save({}, folder / "meta.pt")
    trainer: Any = SimpleNamespace(global_rank=0, world_size=1, is_global_zero=True)
    (folder / "__1_0.distcp").rename(folder / "__0_1.distcp")
    seal_shards(trainer, folder)
    assert describe_damage(folder) is None
    flip_byte(folder / "__0_1.distcp")
    assert describe_damage(folder) == "the checksum of __0_1.distcp does not match"
    (folder / "__0_1.distcp").unlink()
    assert describe_damage(folder) == "__0_1.distcp is missing"


# ------------------------------------------------------------------------------------------------ names


class Trainer:
    """What `LatestCheckpoint.save` uses of a trainer; the files are real."""

    world_size, is_global_zero, global_rank = 1, True, 0

    def __init__(self, root: Path) -> None:
        self.default_root_dir, self.global_step = str(root), 0
        self.strategy = SimpleNamespace(barrier=lambda: None, broadcast=lambda value: value)

    def save_checkpoint(self, path: Path, weights_only: bool = False) -> None:
        DurableCheckpointIO().save_checkpoint(STATE | {"global_step": self.global_step}, path)


def step_of(path: Path) -> int:
    step: int = torch.load(path, weights_only=True)["global_step"]
    return step


def save_steps(callback: LatestCheckpoint, trainer: Any, *steps: int) -> None:
    for trainer.global_step in steps:
        callback._keeping = bool(callback.keep_every) and trainer.global_step % callback.keep_every == 0
        callback.save(trainer)
        time.sleep(0.01)  # files are ordered by the time they were written


def test_the_last_two_and_the_newest_of_those_that_are_kept(tmp_path: Path) -> None:
    save_steps(LatestCheckpoint(keep_every=2, keep=2), Trainer(tmp_path), *range(1, 8))
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in files] == ["last.ckpt", "previous.ckpt", "step-000004.ckpt", "step-000006.ckpt"]
    assert [step_of(path) for path in files] == [7, 6, 4, 6]


def test_a_full_disk_leaves_both_checkpoints_and_is_not_tried_again(tmp_path: Path) -> None:
    callback, trainer = LatestCheckpoint(), Trainer(tmp_path)
    save_steps(callback, trainer, 1, 2)
    with full_disk(), pytest.raises(UserError, match="disk is full") as caught:
        save_steps(callback, trainer, 3)
    trainer.state = SimpleNamespace(fn="fit")  # type: ignore[attr-defined]
    trainer.validating = False  # type: ignore[attr-defined]
    callback.on_exception(trainer, None, caught.value)  # type: ignore[arg-type]
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [step_of(folder / name) for name in ("last.ckpt", "previous.ckpt")] == [2, 1]


class RanksMeet:
    """What two ranks, here threads, use of a strategy; a rank that waits alone for five seconds fails."""

    def __init__(self) -> None:
        self._meeting = threading.Barrier(2, timeout=5)
        self._said: dict[int, Any] = {}

    def of_rank(self, rank: int) -> Any:
        def broadcast(value: Any) -> Any:
            self._said[rank] = value
            self._meeting.wait()
            said = self._said[0]
            self._meeting.wait()
            return said

        return SimpleNamespace(barrier=self._meeting.wait, broadcast=broadcast)


class RankTrainer(Trainer):
    """One of two ranks; the first one writes, and then all meet, as in Lightning's `save_checkpoint`."""

    world_size = 2

    def __init__(self, root: Path, rank: int, ranks: RanksMeet) -> None:
        super().__init__(root)
        self.global_rank, self.is_global_zero, self.strategy = rank, rank == 0, ranks.of_rank(rank)
        self.disk_is_full = False

    def save_checkpoint(self, path: Path, weights_only: bool = False) -> None:
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        if self.is_global_zero:
            super().save_checkpoint(path)
        self.strategy.barrier()


@pytest.mark.parametrize("full", [{0}, {0, 1}], ids=["the first rank's", "both"])
def test_two_ranks_learn_together_that_a_disk_is_full(tmp_path: Path, full: set[int]) -> None:
    """With sharded weights each rank writes, and torch tells all ranks of one that cannot."""
    ranks = RanksMeet()
    trainers = [RankTrainer(tmp_path, rank, ranks) for rank in range(2)]
    callbacks = [LatestCheckpoint(), LatestCheckpoint()]

    def save(rank: int) -> str:
        try:
            save_steps(callbacks[rank], trainers[rank], trainers[rank].global_step + 1)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(save, range(2))) == ["", ""]
        for rank in full:
            trainers[rank].disk_is_full = True
        said = list(pool.map(save, range(2)))
        assert "The disk is full" in said[0]
        assert "The disk is full" in said[1] if 1 in full else "first rank could not write" in said[1]
        assert all(callback._failed for callback in callbacks)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
        for trainer in trainers:
            trainer.disk_is_full = False
        assert list(pool.map(save, range(2))) == ["", ""]
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 3


def test_resuming_prefers_what_this_callback_wrote(tmp_path: Path) -> None:
    callback, trainer = LatestCheckpoint(), Trainer(tmp_path)
    save_steps(callback, trainer, 1, 2)
    trainer.save_checkpoint(tmp_path / "checkpoints" / "best-step=2.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"
    flip_byte(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a complete checkpoint \(the checksum"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "previous.ckpt"


# ------------------------------------------------------------------------------------------------ signals


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    interrupts.install(world_size=1)
    yield interrupts
    interrupts.restore()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SIGTERMException),
        (signal.SIGUSR1, PreemptedException),
    ],
)
def test_a_signal_ends_the_run_at_once_between_updates_and_waits_inside_one(
    interrupts: Interrupts, number: signal.Signals, kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        os.kill(os.getpid(), number)
    interrupts.install(world_size=1)
    interrupts.hold()
    os.kill(os.getpid(), number)
    interrupts.release()
    with pytest.raises(kind):
        interrupts.check(Trainer(Path()), torch.device("cpu"))  # type: ignore[arg-type]


def test_ctrl_c_twice_does_not_wait(interrupts: Interrupts) -> None:
    interrupts.hold()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_while_a_checkpoint_is_written_waits_for_its_end(interrupts: Interrupts) -> None:
    written = []

    def write() -> None:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGUSR1)
            written.append(True)

    with pytest.raises(PreemptedException):
        write()
    assert written


def test_with_several_ranks_a_signal_waits_until_all_agree(interrupts: Interrupts) -> None:
    interrupts.install(world_size=2)
    trainer: Any = Trainer(Path())
    trainer.strategy.reduce = lambda mine, reduce_op: torch.maximum(mine, torch.tensor(float(signal.SIGTERM)))
    with pytest.raises(SIGTERMException):  # the other rank's
        interrupts.check(trainer, torch.device("cpu"))
    interrupts.install(world_size=2)
    os.kill(os.getpid(), signal.SIGUSR1)  # does not raise here
    trainer.strategy.reduce = lambda mine, reduce_op: mine
    with pytest.raises(PreemptedException):
        interrupts.check(trainer, torch.device("cpu"))
