"""The folder of a run's rollouts: one Parquet file per rollout and rank, bounded by number and size.

`pandas.read_parquet("runs/x/rollouts")` reads all of them, and DuckDB reads `'runs/x/rollouts/*.parquet'`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.record import Facts, RolloutRecord, join_ranks, read_facts

FOLDER, DUMPS = "rollouts", "dumps"
"""Folders under trainer.default_root_dir: what was trained on, and what a guard kept."""
GIB = 2**30


class RolloutStore:
    """Writes and reads the rollouts in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; it is made with the first rollout."""
        self.folder = folder

    def write(self, record: RolloutRecord) -> Path:
        """Keep a rollout, complete under its name or not at all; returns its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rollout-{record.facts.rollout:06d}-rank{record.facts.rank}.parquet"
        partial = self.folder / f".{path.name}.partial"  # readers of the folder skip names with a dot
        pq.write_table(record.to_table(), partial, compression="zstd")
        partial.replace(path)
        return path

    def read(self, rollout: int) -> RolloutRecord:
        """Return a rollout, all ranks together. Raises `UserError` if it is not there or cannot be read."""
        files = self._files(f"{rollout:06d}")
        if not files:
            raise UserError(f"{self.folder} does not hold rollout {rollout}: it {self.describe()}.")
        records = [_read(path) for path in files]
        if len(records) < records[0].facts.world_size:
            raise UserError(
                f"{self.folder} holds rollout {rollout} of {len(records)} of {records[0].facts.world_size} ranks: copy "
                "the files of the other ranks into that folder."
            )
        return join_ranks(records)

    def list_facts(self) -> list[Facts]:
        """Return what each readable rollout says about itself, the first rank's, in order."""
        return [facts for path in self._files() if path.stem.endswith("rank0") and (facts := _try_facts(path))]

    def find(self, update: int) -> Facts:
        """Return the facts of the rollout that made a policy update. Raises `UserError` if it is not there."""
        for facts in self.list_facts():
            if facts.first_update < update <= facts.last_update:
                return facts
        raise UserError(f"{self.folder} does not hold the rollout of update {update}: it {self.describe()}.")

    def forget_from(self, rollout: int, rank: int) -> None:
        """Remove what a rank kept of this rollout and those after it, which are going to be made again."""
        for path in self._files(rank=rank):
            if _number(path) >= rollout:
                path.unlink(missing_ok=True)

    def bound(self, max_rollouts: int, max_bytes: float, rank: int) -> None:
        """Remove a rank's oldest files until at most `max_rollouts` and `max_bytes` remain; the newest always stays."""
        files = self._files(rank=rank)
        sizes = [path.stat().st_size for path in files]
        while len(files) > 1 and (len(files) > max_rollouts or sum(sizes) > max_bytes):
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def _files(self, number: str = "*", rank: int | str = "*") -> list[Path]:
        return sorted(self.folder.glob(f"rollout-{number}-rank{rank}.parquet"), key=lambda path: (_number(path), path))

    def describe(self) -> str:
        """Say which updates' rollouts the folder holds."""
        known = self.list_facts()
        if not known:
            return "holds none (record.max_rollouts is how many are kept)"
        return f"holds the rollouts of updates {known[0].first_update + 1} to {known[-1].last_update}"


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _read(path: Path) -> RolloutRecord:
    try:
        return RolloutRecord.from_table(pq.read_table(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as the record of a rollout ({error}): remove it.") from error


def _try_facts(path: Path) -> Facts | None:
    try:
        return read_facts(pq.read_schema(path))
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return None
