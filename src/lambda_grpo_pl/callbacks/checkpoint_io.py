"""Checkpoints that survive a crash: written beside their name, flushed, renamed, and verified before they are read.

A file carries a CRC-32 of every tensor, which torch writes but does not check when it loads; a folder of shards gets a
list of its files with their CRC-32. `describe_damage` checks both.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from lambda_grpo_pl.errors import UserError

CHECKSUMS = "checksums.json"
"""File of a sharded checkpoint: name of every other file → [bytes, CRC-32]."""
METADATA, SHARED_STATE = ".metadata", "meta.pt"
"""Files that end a sharded checkpoint: torch's index of the shards, and what is not sharded."""
DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CHUNK = 1 << 22


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, complete under their name or not there, read without executing anything."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, flush to the disk and rename. Raises `UserError` if the disk is full.

        Unlike Lightning's own, this does not hold the whole file in memory first.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                flush(file.fileno())
            partial.replace(target)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            raise_if_disk_is_full(error, target)
            raise
        flush_folder(target.parent)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values; a file that would execute code is refused by torch."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def install_checkpoint_io(trainer: L.Trainer) -> None:
    """Have the trainer write checkpoint files through `DurableCheckpointIO`, unless the user chose another plugin."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = DurableCheckpointIO()


def flush(descriptor: int) -> None:
    """Wait until the disk has what was written."""
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, as far as the file system can be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush(descriptor)
    except OSError as error:  # some network file systems cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def replace_checkpoint(path: Path, target: Path) -> None:
    """Rename a checkpoint; a file is replaced in one step, a folder has to go first."""
    if path.is_dir() or target.is_dir():
        remove_checkpoint(target)
    path.replace(target)


def link_checkpoint(path: Path, target: Path) -> None:
    """Give a checkpoint a second name, which takes no space until the first one is gone."""
    remove_checkpoint(target)
    try:
        shutil.copytree(path, target, copy_function=os.link) if path.is_dir() else os.link(path, target)
    except OSError:  # a file system without hard links
        remove_checkpoint(target)
        shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ full disks


def raise_if_disk_is_full(error: BaseException, path: Path) -> None:
    """Raise `UserError` if a write to `path` failed for lack of space, in whatever exception that is wrapped."""
    if any(isinstance(each, OSError) and each.errno in DISK_IS_FULL for each in _causes(error)):
        free = shutil.disk_usage(path.parent).free / 2**30
        raise UserError(
            f"The disk is full: {path} could not be written ({free:.1f} GiB free). Complete checkpoints in that folder "
            "are intact: free some space, or lower checkpoint.keep and record.max_gib, and continue with --resume."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        for failure in getattr(error, "failures", {}).values():  # torch's CheckpointException: one for each rank
            yield from _causes(failure[0])
        error = error.__cause__ or error.__context__


# ------------------------------------------------------------------------------------------------ sharded folders


def seal_shards(trainer: L.Trainer, folder: Path) -> None:
    """Write the list of checksums that completes a folder of shards. Collective: each rank reads what it wrote."""
    mine = {file.name: measure(file) for file in sorted(folder.iterdir()) if _writer(file) == trainer.global_rank}
    everyone: list[Any] = [mine]
    if trainer.world_size > 1:
        everyone = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, mine)
    if trainer.is_global_zero:
        write_checksums(folder, {name: sizes for part in everyone for name, sizes in part.items()})


def write_checksums(folder: Path, known: Mapping[str, Sequence[int]]) -> None:
    """Complete a folder of shards with the list of its files: name → bytes and CRC-32, as `measure` gives them."""
    with (folder / CHECKSUMS).open("w", encoding="utf-8") as file:
        json.dump(known, file, indent=1)
        file.flush()
        flush(file.fileno())
    flush_folder(folder)


def _writer(file: Path) -> int:
    """The rank that wrote a file of a sharded checkpoint; shards are called `__<rank>_<number>.distcp`."""
    rank = file.name.removeprefix("__").partition("_")[0]
    return int(rank) if file.name.startswith("__") and rank.isdigit() else 0


def measure(file: Path) -> list[int]:
    """Return the bytes and the CRC-32 of a file."""
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return [file.stat().st_size, checksum]


# ------------------------------------------------------------------------------------------------ verification


def describe_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None for a complete and undamaged one; reads all of it."""
    try:
        return _describe_folder(path) if path.is_dir() else _describe_file(path)
    except Exception as error:  # a damaged file makes its readers fail in whatever way
        return str(error).partition("\n")[0] or f"reading it ends with {type(error).__name__}"


def _describe_file(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "it is not a checkpoint, or was cut off"
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        return f"the checksum of {damaged} does not match"
    torch.load(path, map_location="cpu", mmap=True, weights_only=True)  # reads the structure alone
    return None


def _describe_folder(path: Path) -> str | None:
    missing = [name for name in (METADATA, SHARED_STATE) if not (path / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    if not (path / CHECKSUMS).is_file():  # Lightning's ModelCheckpoint wrote it
        return _describe_file(path / SHARED_STATE)
    for name, sizes in json.loads((path / CHECKSUMS).read_text(encoding="utf-8")).items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if measure(path / name) != sizes:
            return f"the checksum of {name} does not match"
    return None
