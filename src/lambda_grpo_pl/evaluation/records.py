"""The records of an evaluation: one per question, in Parquet, from which every score can be computed again.

A folder holds the records of one benchmark, made under one `EvaluationSetup`. While an evaluation runs, each rank
writes parts; a part appears completely or not at all, so an interrupted evaluation continues where it stopped. At the
end one rank merges them:

    write_part(folder, setup, rank, records)   # every rank, once per batch
    merge(folder)                              # one rank, when all are done: one sorted file
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.scores import QuestionScores
from lambda_grpo_pl.sampling_settings import SamplingParameters

MERGED = "records.parquet"
METADATA_KEY = b"evaluation_setup"
ENGINE_FIELDS = ("engine", "engine_version", "dtype")


@dataclass(kw_only=True)
class EvaluationSetup(SamplingParameters):
    """Everything that a benchmark's score depends on: the record of how the score came about."""

    benchmark: str
    """Name of the benchmark."""
    template: str
    """Name of the prompt template, or its text."""
    reward: str
    """Name of the reward function, which extracts and judges the answer."""
    reward_params: dict[str, Any] = field(default_factory=dict)
    """Arguments of the reward function."""
    reward_reads: str = ""
    """Which part of a response the reward reads, as the reward itself describes it; empty if not recorded."""
    metric: str = "accuracy"
    """The headline measure: `accuracy` or `score`."""
    temperature: float = 0.0
    """Greedy unless the benchmark says otherwise."""
    max_tokens: int = 3072
    """Longest response in tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a response."""
    seed: int = 0
    """Seed of the sampler."""
    engine: str = ""
    """What sampled the responses, for example `vllm` or `transformers`; empty if not recorded."""
    engine_version: str = ""
    """Version of the engine; empty if not recorded."""
    dtype: str = ""
    """Number format of the engine's weights, for example `bfloat16`; empty if not recorded."""
    policy: str = ""
    """Which weights answered, for example the step and a digest."""

    def __post_init__(self) -> None:
        # A setup read back from JSON, which has no tuples, must equal the one that was written.
        self.stop = tuple(self.stop)
        self.reward_params = json.loads(json.dumps(self.reward_params))

    def describe(self) -> str:
        """Return one line for tables: template, reward, sampling and engine."""
        params = ", ".join(f"{name}={value}" for name, value in self.reward_params.items())
        nucleus = f", top_p {self.top_p:g}" * (self.top_p < 1) + f", top_k {self.top_k}" * (self.top_k > 0)
        sampling = "greedy" if self.greedy else f"temperature {self.temperature:g}{nucleus}"
        engine = " ".join(filter(None, (self.engine, self.engine_version, self.dtype)))
        return (
            f"template {self.template}, reward {self.reward}({params}), {sampling}, n {self.num_samples}, "
            f"at most {self.max_tokens} tokens" + (f", {engine}" if engine else "")
        )

    def same_responses(self, other: EvaluationSetup) -> bool:
        """Return whether responses sampled and judged under one setup also hold under the other.

        Greedy decoding draws nothing, so its seed, top_p and top_k are ignored. An engine, version or dtype that was
        not recorded is not taken for a different one. What a reward reads is a description and is ignored.
        """
        return self._without_irrelevant(other) == other._without_irrelevant(self)

    def _without_irrelevant(self, other: EvaluationSetup) -> EvaluationSetup:
        unrecorded = [name for name in ENGINE_FIELDS if not getattr(self, name) or not getattr(other, name)]
        ignored: dict[str, Any] = {"reward_reads": "", **dict.fromkeys(unrecorded, "")}
        if self.greedy:
            ignored |= {"seed": 0, "top_p": 1.0, "top_k": 0}
        return replace(self, **ignored)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question with its n responses, as sampled and judged."""

    id: str
    """Name of the question in its benchmark."""
    index: int
    """Its position in the benchmark, from 0."""
    answer: str
    """The gold answer."""
    prompt: str
    """The prompt as sent to the policy."""
    completions: list[str]
    """[n] responses as text."""
    extracted: list[str | None]
    """[n] extracted answers, or None."""
    correct: list[bool]
    """[n] whether each response is correct."""
    scores: list[float]
    """[n] rewards."""
    status: list[str]
    """[n] `ok`, `no_answer` or `failed`."""
    lengths: list[int]
    """[n] response tokens."""
    truncated: list[bool]
    """[n] whether each response hit the length limit."""

    def question_scores(self) -> QuestionScores:
        """Return the part of the record that scores are computed from."""
        return QuestionScores(
            self.index, self.correct, self.scores, self.extracted, self.lengths, self.truncated, self.status
        )


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("index", pa.int64()),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("extracted", pa.list_(pa.string())),
        ("correct", pa.list_(pa.bool_())),
        ("scores", pa.list_(pa.float64())),
        ("status", pa.list_(pa.string())),
        ("lengths", pa.list_(pa.int64())),
        ("truncated", pa.list_(pa.bool_())),
    ]
)


def write_part(folder: str | Path, setup: EvaluationSetup, rank: int, records: Sequence[QuestionRecord]) -> Path:
    """Write records into a new part of this rank and return its path; existing parts are never overwritten."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"part-{rank:05d}-"
    last = max((file.stem for file in folder.glob(f"{prefix}*.parquet")), default=f"{prefix}-1")
    file = folder / f"{prefix}{int(last.removeprefix(prefix)) + 1:06d}.parquet"
    _write(file, records, setup)
    return file


def list_benchmarks(folder: str | Path) -> list[Path]:
    """Return the folders below `folder` that hold a benchmark's records; other Parquet files are not looked at."""
    names = (MERGED, "part-*.parquet")
    return sorted({file.parent for name in names for file in Path(folder).glob(f"*/{name}")})


def read_records(folder: str | Path) -> list[QuestionRecord]:
    """Return a folder's records, sorted by index, each question once.

    Raises `UserError` if there is none.
    """
    records: dict[str, QuestionRecord] = {}
    for file in _files(folder):
        for row in parquet.read_table(file).to_pylist():
            records.setdefault(row["id"], QuestionRecord(**row))
    return sorted(records.values(), key=lambda record: record.index)


def read_setup(folder: str | Path) -> EvaluationSetup:
    """Return the setup under which a folder's records were made. Raises `UserError` if there is no record."""
    return EvaluationSetup(**json.loads(parquet.read_schema(_files(folder)[0]).metadata[METADATA_KEY]))


def merge(folder: str | Path) -> Path:
    """Write all records of a folder into one sorted file, remove the parts and return its path. For one rank only."""
    records, setup = read_records(folder), read_setup(folder)
    target = Path(folder) / MERGED
    parts = [file for file in _files(folder) if file != target]
    _write(target, records, setup)
    for part in parts:
        part.unlink()
    return target


def _files(folder: str | Path) -> list[Path]:
    """Return a folder's files, the merged one first: of two records of a question, the older one counts."""
    files = sorted(Path(folder).glob("*.parquet"), key=lambda file: (file.name != MERGED, file.name))
    if not files:
        raise UserError(f"{folder} holds no records: run `lambda-grpo validate` first, or fix the path.")
    return files


def _write(file: Path, records: Sequence[QuestionRecord], setup: EvaluationSetup) -> None:
    """Write a file under another name and rename it, so that a reader never sees an incomplete one."""
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(setup)).encode()})
    unfinished = file.with_suffix(".unfinished")
    parquet.write_table(pa.Table.from_pylist([asdict(record) for record in records], schema), unfinished)
    unfinished.replace(file)
