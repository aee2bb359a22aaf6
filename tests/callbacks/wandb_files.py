"""Reading an offline W&B run back from its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK = 7, 32768
"""Bytes of the file's and each fragment's header, and of a block: the format is LevelDB's log."""
FULL, LAST = 1, 4


class OfflineRun(NamedTuple):
    """What W&B would be sent."""

    id: str
    name: str
    group: str
    tags: list[str]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    """One mapping per logged step."""
    axes: dict[str, str]
    """Metric, or pattern, → its x axis."""


def read_offline_runs(folder: Path) -> list[OfflineRun]:
    """Every run below `<folder>/wandb`, oldest first."""
    return [_read(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _read(file: Path) -> OfflineRun:
    history: list[dict[str, Any]] = []
    axes: dict[str, str] = {}
    run: Any = None
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            items = record.history.item
            history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
        elif kind == "metric" and record.metric.step_metric:
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    return OfflineRun(run.run_id, run.display_name, run.run_group, list(run.tags), config, history, axes)


def _records(content: bytes) -> Iterator[bytes]:
    """Records are split into fragments (checksum 4, length 2, type 1 byte, data) that do not cross blocks."""
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
