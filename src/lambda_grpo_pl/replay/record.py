"""A rollout that was trained on, and its rows as a table that any reader of Parquet understands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch

TRAIN, HELDOUT = "train", "heldout"
METADATA = b"lambda_grpo"
"""Key of the file's metadata: the record without its rows, as JSON."""
PART = "reward_"
"""Before the name of a reward function: the column of what it returned."""
TOKEN_IDS, LOGPROBS = pa.list_(pa.int32()), pa.list_(pa.float32())
COLUMNS: dict[str, pa.DataType] = {
    "rollout": pa.int64(),
    "update": pa.int64(),
    "rank": pa.int32(),
    "set": pa.string(),
    "prompt": pa.int32(),
    "response": pa.int32(),
    "id": pa.string(),
    "answer": pa.string(),
    "prompt_ids": TOKEN_IDS,
    "response_ids": TOKEN_IDS,
    "logprobs": LOGPROBS,
    "old_logprobs": LOGPROBS,
    "reference_logprobs": LOGPROBS,
    "length": pa.int32(),
    "truncated": pa.bool_(),
    "reward": pa.float32(),
    "correct": pa.bool_(),
    "active": pa.bool_(),
    "status": pa.string(),
    "extracted": pa.string(),
    "advantage": pa.float32(),
    "f": pa.float64(),
    "surrogate": pa.float32(),
}
"""Column → type. One row per response; docs/replay.md says what each means."""
LEARNED = {"advantages": "advantage", "f": "f", "surrogates": "surrogate"}
"""What the updates used, [N] → its column."""
SCORED = {"old": "old_logprobs", "reference": "reference_logprobs"}
"""What was computed before the updates, [N, L] → its column."""


@dataclass(kw_only=True)
class Facts:
    """What a record holds besides its rows."""

    rollout: int
    """Number of the batch in the run, from 0."""
    first_update: int
    """Policy updates before this rollout."""
    last_update: int
    """Policy updates after it: `update` in metrics.csv."""
    weights_version: int
    """Policy updates of the weights that sampled."""
    rank: int = 0
    """Which process learned from these rows."""
    world_size: int = 1
    """How many processes there were."""
    device: str = "cpu"
    """Type of the device."""
    num_threads: int = 1
    """CPU threads of torch; another number may change the order of sums, and with it the last digits."""
    torch_version: str = torch.__version__
    """Version of torch."""
    method: str = ""
    """The method that trained."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the run logged about the updates."""
    widths: dict[str, list[int]] = field(default_factory=dict)
    """Set → columns of the padded prompts and responses."""


@dataclass(kw_only=True)
class RolloutRecord:
    """A rollout as it was trained on, on the CPU."""

    facts: Facts
    batch: RolloutBatch
    learned: Mapping[str, Tensor]
    """`advantages`, `f`, `surrogates` [N], and where the update needed them `old` and `reference` [N, L]."""

    def to_table(self) -> pa.Table:
        """Return a row per response, the held-out ones of the `validation` rule last."""
        sets = {TRAIN: (self.batch, self.learned)}
        if self.batch.heldout is not None:
            sets[HELDOUT] = self.batch.heldout, {}
        parts = [_rows(self.facts, name, batch, learned) for name, (batch, learned) in sets.items()]
        widths = {name: _widths(batch) for name, (batch, _) in sets.items()}
        facts = json.dumps(asdict(self.facts) | {"widths": widths})
        return pa.concat_tables(parts).replace_schema_metadata({METADATA: facts.encode()})

    @classmethod
    def from_table(cls, table: pa.Table) -> RolloutRecord:
        """Return the record of a table, with the tensors that were trained on."""
        facts = read_facts(table.schema)
        batches = {
            name: _batch(table.filter(pa.compute.equal(table["set"], name)), facts.rollout, widths)
            for name, widths in facts.widths.items()
        }
        batch, learned = batches[TRAIN]
        batch.heldout = batches[HELDOUT][0] if HELDOUT in batches else None
        return cls(facts=facts, batch=batch, learned=learned)


def read_facts(schema: pa.Schema) -> Facts:
    """Return what a file says about its rollout. Raises `ValueError` if it is not the record of one."""
    content = (schema.metadata or {}).get(METADATA)
    if content is None:
        raise ValueError("not the record of a rollout")
    return Facts(**json.loads(content))


def _widths(batch: RolloutBatch) -> list[int]:
    return [batch.prompts.ids.shape[1], batch.sampled().ids.shape[1]]


# ------------------------------------------------------------------------------------------------ to rows


def _rows(facts: Facts, name: str, batch: RolloutBatch, learned: Mapping[str, Tensor]) -> pa.Table:
    prompts, completions, rewards = batch.prompts, batch.sampled(), batch.scored()
    count, group = len(completions.lengths), batch.group_size
    owners = [row // group for row in range(count)]
    examples = [prompts.examples[owner] for owner in owners]
    prompt_ids = [prompts.tokens(number) for number in range(batch.num_prompts)]
    verdicts = rewards.verdicts or (("ok", None),) * count
    values: dict[str, Sequence[Any] | None] = {
        "rollout": [facts.rollout] * count,
        "update": [facts.last_update] * count,
        "rank": [facts.rank] * count,
        "set": [name] * count,
        "prompt": owners,
        "response": [row % group for row in range(count)],
        "id": [_text(example.get("id")) for example in examples],
        "answer": [_text(example.get("answer")) for example in examples],
        "prompt_ids": [prompt_ids[owner] for owner in owners],
        "response_ids": [completions.tokens(row) for row in range(count)],
        "logprobs": _ragged(completions.logprobs, completions.lengths),
        "length": completions.lengths.tolist(),
        "truncated": completions.truncated.tolist(),
        "reward": rewards.total.tolist(),
        "correct": rewards.correct.tolist(),
        "active": rewards.active.tolist(),
        "status": [status for status, _ in verdicts],
        "extracted": [_text(extracted) for _, extracted in verdicts],
    }
    values |= {column: learned[key].tolist() for key, column in LEARNED.items() if key in learned}
    values |= {column: _ragged(learned[key], completions.lengths) for key, column in SCORED.items() if key in learned}
    arrays = {column: pa.array(values.get(column) or [None] * count, kind) for column, kind in COLUMNS.items()}
    arrays |= {PART + part: pa.array(scores.tolist(), pa.float32()) for part, scores in rewards.parts.items()}
    return pa.table(arrays)


def _ragged(values: Tensor, lengths: Tensor) -> list[list[float]]:
    return [row[:length] for row, length in zip(values.tolist(), lengths.tolist(), strict=True)]


def _text(value: object) -> str | None:
    """Text that any UTF-8 file can hold: half a surrogate pair, which JSON lets through, becomes a question mark."""
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


# ------------------------------------------------------------------------------------------------ from rows


def _batch(rows: pa.Table, index: int, widths: Sequence[int]) -> tuple[RolloutBatch, dict[str, Tensor]]:
    columns = rows.to_pydict()
    group = max(columns["response"]) + 1
    firsts = range(0, len(rows), group)
    lengths = torch.tensor(columns["length"])
    prompt_ids = [columns["prompt_ids"][row] for row in firsts]
    left_padded = [[0] * (widths[0] - len(ids)) + ids for ids in prompt_ids]
    batch = RolloutBatch(
        prompts=Prompts(
            torch.tensor(left_padded, dtype=torch.long),
            torch.tensor([len(ids) for ids in prompt_ids]),
            tuple({"id": columns["id"][row], "answer": columns["answer"][row]} for row in firsts),
        ),
        index=index,
        completions=Completions(
            ids=_padded(columns["response_ids"], widths[1], torch.long),
            lengths=lengths,
            truncated=torch.tensor(columns["truncated"]),
            logprobs=_padded(columns["logprobs"], widths[1], torch.float32),
        ),
        rewards=Rewards(
            total=torch.tensor(columns["reward"], dtype=torch.float32),
            correct=torch.tensor(columns["correct"]),
            active=torch.tensor(columns["active"]),
            parts={
                name.removeprefix(PART): torch.tensor(columns[name], dtype=torch.float32)
                for name in columns
                if name.startswith(PART)
            },
            verdicts=tuple(zip(columns["status"], columns["extracted"], strict=True)),
        ),
    )
    learned = {
        key: torch.tensor(columns[name], dtype=torch.float64 if key == "f" else torch.float32)
        for key, name in LEARNED.items()
        if rows[name].null_count == 0
    }
    learned |= {
        key: _padded(columns[name], widths[1], torch.float32)
        for key, name in SCORED.items()
        if rows[name].null_count == 0
    }
    return batch, learned


def _padded(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> Tensor:
    padded = torch.zeros((len(rows), width), dtype=dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=dtype)
    return padded


def join_ranks(records: Sequence[RolloutRecord]) -> RolloutRecord:
    """Return the record of all ranks together, as one process would have had it: rank 0's prompts first."""
    first = records[0]
    if len(records) == 1:
        return first
    widths = {
        name: [max(record.facts.widths[name][side] for record in records) for side in (0, 1)]
        for name in first.facts.widths
    }
    tables = [record.to_table() for record in records]
    metadata = json.dumps(asdict(first.facts) | {"widths": widths}).encode()
    joined = pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="default")
    return RolloutRecord.from_table(joined.replace_schema_metadata({METADATA: metadata}))
