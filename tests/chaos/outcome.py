"""What a run leaves, compared to the last bit; only times may differ."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from lambda_grpo_pl.callbacks.checkpoint_io import SHARED_STATE

TIMES = ("time/", "train/tokens_per_second")
NOT_COMPARED = {
    "timestamp",
    "seconds",
    "current_score",
    "epoch_loop.batch_progress",
    "epoch_loop.val_loop.batch_progress",
}
"""ModelCheckpoint does not restore its `current_score`, and reads the best one instead. The last two count what was
begun, also if it did not end; the data's position is compared."""


def differences(expected: Path, result: Path) -> list[str]:
    """What differs between the folders of two runs, in words; nothing if they are the same run."""
    found = [f"state: {place}" for place in _unequal(_state(expected), _state(result), "")]
    found += [f"metrics.csv: {line}" for line in _rows_differ(expected, result, "csv/metrics.csv")]
    found += [f"preference_curve.csv: {line}" for line in _rows_differ(expected, result, "preference_curve.csv")]
    found += [f"guards.csv: {line}" for line in _rows_differ(expected, result, "guards.csv")]
    for folder in ("evaluation", "rollouts", "policy"):
        found += _files_differ(expected / folder, result / folder)
    return found


def _state(run: Path) -> Any:
    """The final state: weights, both optimizers, the data's position, what callbacks and loops remember."""
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        return torch.load(last, map_location="cpu", weights_only=True)
    shared = torch.load(last / SHARED_STATE, map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        joined = Path(folder) / "joined.pt"
        dcp_to_torch_save(last, joined)
        return {"shared": shared, "sharded": torch.load(joined, map_location="cpu", weights_only=True)}


def _unequal(a: Any, b: Any, place: str) -> list[str]:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) else [place]
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = ({_without_folder(key): value for key, value in each.items()} for each in (a, b))
        keys = [key for key in a.keys() | b.keys() if not _is_time(str(key))]
        return [line for key in sorted(keys, key=str) for line in _unequal(a.get(key), b.get(key), f"{place}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} entries"]
        return [line for n, (x, y) in enumerate(zip(a, b, strict=True)) for line in _unequal(x, y, f"{place}/{n}")]
    return [] if repr(a) == repr(b) or _is_path(a, b) else [f"{place}: {a!r} and {b!r}"]


def _is_time(name: str) -> bool:
    return name.startswith(TIMES) or name in NOT_COMPARED


def _without_folder(key: Any) -> Any:
    """A path as a key, such as ModelCheckpoint's, without the folder of the run."""
    return Path(key).name if isinstance(key, str) and key.startswith("/") else key


def _is_path(a: Any, b: Any) -> bool:
    """Paths differ in the folder of the run alone."""
    return all(isinstance(each, str) and "/" in each for each in (a, b)) and Path(a).name == Path(b).name


def _rows_differ(expected: Path, result: Path, name: str) -> list[str]:
    tables = []
    for run in (expected, result):
        path = run / name
        if not path.is_file():
            tables.append([])
            continue
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: v for k, v in row.items() if not _is_time(k)} for row in csv.DictReader(file)]
        tables.append([{k: v.replace(str(run), "") for k, v in row.items() if v} for row in rows])
    return _unequal(*tables, "")


def _content(file: Path) -> bytes:
    """What a file says, without the command in a model card: a resumed run has another one."""
    lines = file.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if file.name != "README.md" or not line.startswith(b"    lambda-grpo "))


def _files_differ(expected: Path, result: Path) -> list[str]:
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
        for folder in (expected, result)
    ]
    found = [f"{expected.name}/{name} is only in one of them" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        a, b = expected / name, result / name
        if a.suffix == ".parquet":
            ours, theirs = (pq.read_table(path) for path in (a, b))
            same = ours.equals(theirs)
        else:
            same = _content(a) == _content(b)
        if not same:
            found.append(f"{expected.name}/{name} differs")
    return found
