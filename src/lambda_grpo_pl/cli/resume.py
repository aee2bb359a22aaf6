"""Which checkpoint a run continues from, and whether a folder is free for a new run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lambda_grpo_pl.builtin.cache import make_once
from lambda_grpo_pl.callbacks.checkpoint import FOLDER, KEPT, LAST, PREVIOUS
from lambda_grpo_pl.callbacks.checkpoint_io import describe_damage
from lambda_grpo_pl.callbacks.checkpoint_layout import merge_shards, split_file
from lambda_grpo_pl.errors import UserError


def choose_checkpoint(root: Path, resume: bool, ckpt_path: str | None) -> str | None:
    """Return the checkpoint that a fit in `root` continues from, or None for a new run.

    Raises `UserError` if there is nothing to resume, the named checkpoint does not exist, or a new run would write into
    the folder of another one.
    """
    if ckpt_path is not None:
        return check_checkpoint_path(ckpt_path)
    found = newest_checkpoint(root)
    if resume and found is None:
        raise UserError(f"There is nothing to resume: {root / FOLDER} has no complete checkpoint. Leave out --resume.")
    if resume:
        rank_zero_info(f"Resuming from {found}.")
        return str(found)
    if found is not None:
        raise UserError(
            f"{root} already holds a run ({found.relative_to(root)}): add --resume to continue it, or set "
            "trainer.default_root_dir to a new folder."
        )
    return None


def check_checkpoint_path(path: str) -> str:
    """Return the path of a checkpoint that can be read. Raises `UserError` for anything else."""
    if not Path(path).exists():
        raise UserError(f"--ckpt_path is {path}, but there is no such checkpoint: fix the path.")
    damage = describe_damage(Path(path))
    if damage is not None:
        raise UserError(
            f"--ckpt_path is {path}, which is not a complete checkpoint ({damage}): name another one, or use --resume "
            "to take the newest complete one of trainer.default_root_dir."
        )
    return path


def convert_checkpoint(path: str, strategy: str) -> str:
    """Return a checkpoint that a strategy can read: `path`, or its copy in the other layout, made once beside it.

    Several ranks may call this at once.
    """
    source, wants_shards = Path(path), strategy == "ModelParallelStrategy"
    if source.is_dir() == wants_shards:
        return path
    digest = hashlib.sha256(f"{source.resolve()} {source.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    target = source.parent / "converted" / f"{source.stem}-{digest}"
    if not target.exists():
        rank_zero_info(f"Converting {source} for {strategy}: {target} can be deleted once the run goes on.")
    if wants_shards:
        return str(make_once(target, lambda folder: split_file(source, folder)))
    return str(make_once(target, lambda folder: merge_shards(source, folder / source.name)) / source.name)


def check_checkpoint_argument(arguments: Sequence[str]) -> None:
    """Check `--ckpt_path` before Lightning reads settings from the file. Raises `UserError`."""
    for place, word in enumerate(arguments):
        if word.startswith("--ckpt_path="):
            check_checkpoint_path(word.partition("=")[2])
        elif word == "--ckpt_path" and place + 1 < len(arguments):
            check_checkpoint_path(arguments[place + 1])


def newest_checkpoint(root: Path) -> Path | None:
    """Return the complete checkpoint of `root` that was written last; damaged ones are skipped with a warning.

    Those that `LatestCheckpoint` wrote come first. Another callback, such as ModelCheckpoint, may save a moment
    earlier, when the record of an evaluation is not complete.
    """
    found = sorted((root / FOLDER).glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    own = [path for path in found if path.name in (LAST, PREVIOUS) or path.match(KEPT)]
    for path in own + [path for path in found if path not in own]:
        damage = describe_damage(path)
        if damage is None:
            return path
        rank_zero_warn(f"{path} is not a complete checkpoint ({damage}): skipping it.")
    return None
