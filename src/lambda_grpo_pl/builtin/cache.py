"""Where built-in models are kept, and how their folders appear: complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "LAMBDA_GRPO_CACHE"


def cache_folder() -> Path:
    """Return $LAMBDA_GRPO_CACHE, else `lambda_grpo_pl` in the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lambda_grpo_pl"


def make_once(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder and give it the name `path`; an existing folder is kept.

    Several processes may call this at once: one works and the others wait.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            partial = path.with_name(path.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            partial.rename(path)
    return path
