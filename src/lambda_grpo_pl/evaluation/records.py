"""What an evaluation leaves on disk: one record per question, in Parquet, from which every score can be computed again.

A folder holds the records of one benchmark under one `EvaluationSetup`. Ranks append parts of their own and each
part appears whole or not at all, so an evaluation that was killed goes on where it stopped:

    done = finished(folder, settings)                      # ids of questions that need no sampling
    with RecordWriter(folder, settings, rank) as writer:   # writer.add(record) per question
        ...
    merge(folder)                                          # one rank, once all are through: one sorted file
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from pyarrow import parquet

from lambda_grpo_pl.evaluation.scores import QuestionScores

MERGED = "records.parquet"
METADATA_KEY = b"evaluation_setup"


@dataclass(kw_only=True)
class EvaluationSetup:
    """Everything beside the policy that a score depends on; it is printed with every score."""

    benchmark: str
    """Name of the benchmark."""
    template: str
    """Name of the prompt template, or its text."""
    reward: str
    """Name of the reward function, which extracts the answer and judges it."""
    reward_params: dict[str, Any] = field(default_factory=dict)
    """Arguments of the reward function."""
    metric: str = "accuracy"
    """The headline measure: `accuracy` or `score`."""
    num_samples: int = 1
    """Responses per question, n."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus of the sampling distribution."""
    top_k: int = 0
    """Most likely tokens kept; 0 keeps all."""
    max_tokens: int = 3072
    """Response tokens after which a response is cut."""
    stop: tuple[str, ...] = ()
    """Strings that end a response."""
    seed: int = 0
    """Seed of the sampler."""
    policy: str = ""
    """Which weights answered, for example the checkpoint's name and step."""

    def __post_init__(self) -> None:
        # settings read back from JSON, which has no tuples, must equal those written
        self.stop = tuple(self.stop)
        self.reward_params = json.loads(json.dumps(self.reward_params))

    def describe(self) -> str:
        """Return one line for tables: template, reward, and how responses were sampled."""
        params = ", ".join(f"{name}={value}" for name, value in self.reward_params.items())
        nucleus = f", top_p {self.top_p:g}" * (self.top_p < 1) + f", top_k {self.top_k}" * (self.top_k > 0)
        sampling = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}{nucleus}"
        return (
            f"template {self.template}, reward {self.reward}({params}), {sampling}, n {self.num_samples}, "
            f"at most {self.max_tokens} tokens"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question with its n responses, as sampled and as judged."""

    id: str
    """Name of the question in its benchmark."""
    index: int
    """Its position there, from 0."""
    answer: str
    """The gold answer."""
    prompt: str
    """The prompt as sent to the policy."""
    completions: list[str]
    """[n] responses as text."""
    extracted: list[str | None]
    """[n] answers found in them; None where there is none."""
    correct: list[bool]
    """[n] verdicts."""
    scores: list[float]
    """[n] rewards."""
    status: list[str]
    """[n] `ok`, `no_answer` or `failed`."""
    lengths: list[int]
    """[n] response tokens."""
    truncated: list[bool]
    """[n] whether the length limit cut them."""

    def question_scores(self) -> QuestionScores:
        """Return what the metrics read."""
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


class RecordWriter:
    """Appends records to a folder, one part per `part_size` questions: a kill loses no more than the part that waits.

    Raises `ValueError` where the folder already holds records made under other settings.
    """

    def __init__(self, folder: str | Path, settings: EvaluationSetup, rank: int = 0, part_size: int = 64) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        finished(self.folder, settings)
        self.settings = settings
        self.rank = rank
        self.part_size = part_size
        self.waiting: list[QuestionRecord] = []

    def add(self, record: QuestionRecord) -> None:
        """Append one question."""
        self.waiting.append(record)
        if len(self.waiting) >= self.part_size:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, whole or not at all."""
        if self.waiting:
            prefix = f"part-{self.rank:05d}-"
            last = max((file.stem for file in self.folder.glob(f"{prefix}*.parquet")), default=f"{prefix}-1")
            number = int(last.removeprefix(prefix)) + 1
            _write(self.folder / f"{prefix}{number:06d}.parquet", self.waiting, self.settings)
            self.waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def finished(folder: str | Path, settings: EvaluationSetup | None = None) -> set[str]:
    """Return the ids of the questions whose records lie in a folder; none where it does not exist.

    With `settings`, raises `ValueError` where the records were made under others: they must not be mixed.
    """
    done: set[str] = set()
    for file in _files(folder):
        found = _settings(file)
        if settings is not None and found != settings:
            differing = [
                each.name for each in fields(found) if getattr(found, each.name) != getattr(settings, each.name)
            ]
            raise ValueError(
                f"{file} was made under another {', '.join(differing)}: evaluate into a new folder, or remove this one."
            )
        done.update(parquet.read_table(file, columns=["id"])["id"].to_pylist())
    return done


def read_records(folder: str | Path) -> list[QuestionRecord]:
    """Return a folder's records, sorted by index, each question once.

    Raises `ValueError` where there is none.
    """
    records: dict[str, QuestionRecord] = {}
    for file in _files(folder):
        for row in parquet.read_table(file).to_pylist():
            records.setdefault(row["id"], QuestionRecord(**row))
    if not records:
        raise ValueError(f"{folder} holds no records: run `lambda-grpo validate` first, or check the path.")
    return sorted(records.values(), key=lambda record: record.index)


def read_settings(folder: str | Path) -> EvaluationSetup:
    """Return the settings that a folder's records were made under."""
    for file in _files(folder):
        return _settings(file)
    raise ValueError(f"{folder} holds no records: run `lambda-grpo validate` first, or check the path.")


def merge(folder: str | Path) -> Path:
    """Write all records of a folder into one sorted file, remove the parts and return its path. For one rank only."""
    records, settings = read_records(folder), read_settings(folder)
    target = Path(folder) / MERGED
    parts = [file for file in _files(folder) if file != target]
    _write(target, records, settings)
    for part in parts:
        part.unlink()
    return target


def _files(folder: str | Path) -> Iterator[Path]:
    return iter(sorted(Path(folder).glob("*.parquet")))


def _settings(file: Path) -> EvaluationSetup:
    return EvaluationSetup(**json.loads(parquet.read_schema(file).metadata[METADATA_KEY]))


def _write(file: Path, records: list[QuestionRecord], settings: EvaluationSetup) -> None:
    """Write a file under another name and move it into place, so that a reader never sees half of one."""
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(settings)).encode()})
    unfinished = file.with_suffix(".unfinished")
    parquet.write_table(pa.Table.from_pylist([asdict(record) for record in records], schema), unfinished)
    unfinished.replace(file)
