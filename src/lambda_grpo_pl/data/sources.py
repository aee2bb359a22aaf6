"""Where prompts are read: the built-in task, a hub data set, a JSONL or Parquet file, or a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lambda_grpo_pl.builtin.arithmetic import ArithmeticTask, Split
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, AnswerFormat, find_benchmarks, load_benchmark
from lambda_grpo_pl.data.readers import SUFFIXES, hub_rows
from lambda_grpo_pl.data.templates import find_template

BUILTIN = "builtin:arithmetic"
HELDOUT_QUESTIONS = 512


@dataclass(kw_only=True)
class PromptSource:
    """Where questions and gold answers are read."""

    path: str | None = BUILTIN
    """`builtin:arithmetic`, a data set id on the Hugging Face hub, or a .jsonl or .parquet file. With `benchmark`: a
    local copy of it, or null for the hub."""
    benchmark: str | None = None
    """Benchmark or suite that says columns, split and template itself (`gsm8k`, `math8`, …); for validation."""
    config: str | None = None
    """Configuration of a hub data set that has several."""
    split: str = "train"
    """Split of a hub data set or of the built-in task (train, validation, test)."""
    streaming: bool = False
    """Read while training instead of loading everything first; for sets too large for memory."""
    question_column: str = "question"
    """Column of the question; `a+b` joins two columns, `a.b` reads field b of column a."""
    answer_column: str = "answer"
    """Column of the gold answer."""
    answer_format: AnswerFormat = "bare"
    """Where the gold stands in its column: all of it, after `####`, in the last box, before a unit, in `$…$`."""
    template: str | None = None
    """Prompt template by name, or a text that holds `{question}`. Null: the benchmark's own, none for the built-in
    task, else plain."""
    limit: int | None = None
    """Use only the first so many rows."""

    def __post_init__(self) -> None:
        if self.template is not None:
            find_template(self.template)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: set it to 1 or more, or leave it out to use every row.")
        if self.benchmark is not None:
            find_benchmarks([self.benchmark])
            self.path = None if self.path == BUILTIN else self.path
        elif self.path is None:
            raise ValueError("A prompt source has neither path nor benchmark: name one of them.")

    @property
    def default_template(self) -> str:
        """Name or text of the template in use."""
        if self.template is not None:
            return self.template
        if self.benchmark is not None:
            return BENCHMARKS[self.benchmark].template
        return "none" if self.path == BUILTIN else "plain"

    @property
    def on_hub(self) -> bool:
        """Whether rows come from the hub in its own columns."""
        return self.path is not None and self.path != BUILTIN and not self.path.endswith(SUFFIXES)

    @property
    def name(self) -> str:
        """What metrics and messages call it."""
        if self.benchmark is not None:
            return self.benchmark
        assert self.path is not None
        if self.path == BUILTIN:
            return "arithmetic"
        return Path(self.path).stem if self.path.endswith(SUFFIXES) else self.path.rpartition("/")[2]


class BadRowError(Exception):
    """A single row is at fault, not the source."""


def open_rows(source: PromptSource) -> Iterator[tuple[str, Any]]:
    """Yield (name, mapping or JSON text) of each row, at most `limit`. Raises `ValueError` for a missing file."""
    return islice(_open(source), source.limit)


def _open(source: PromptSource) -> Iterator[tuple[str, Any]]:
    if source.benchmark is not None:
        rows = load_benchmark(BENCHMARKS[source.benchmark], source.path, source.limit)
        return ((f"{source.benchmark} {row['id']}", row) for row in rows)
    path = cast(str, source.path)
    if path == BUILTIN:
        size = source.limit or (16384 if source.split == "train" else HELDOUT_QUESTIONS)
        task = ArithmeticTask(cast(Split, source.split), size)
        return ((row["id"], row) for row in task)
    if not path.endswith(SUFFIXES):
        return hub_rows(path, source.config, source.split)
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}: correct the path of the prompt source.")
    return _parquet(path) if path.endswith(".parquet") else _lines(path)


def _lines(path: str) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", line


def _parquet(path: str) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    first = 1
    for batch in parquet.ParquetFile(path).iter_batches():
        for number, row in enumerate(batch.to_pylist(), start=first):
            yield f"{path}:{number}", row
        first += batch.num_rows


def parse_line(line: str) -> Mapping[str, Any]:
    """Return a JSONL line as a row. Raises `BadRowError` if it is no JSON object."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRowError(f"not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(row, dict):
        raise BadRowError(f"a JSON {type(row).__name__}, not an object")
    return row
