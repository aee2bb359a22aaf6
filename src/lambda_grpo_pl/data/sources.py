"""Where prompts come from: a built-in task, a hub data set, local files, rows in memory, or a benchmark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

from lambda_grpo_pl.builtin.tasks import PREFIX, read_task
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, SUITES, Benchmark, find_benchmarks
from lambda_grpo_pl.data.columns import AnswerFormat, AnswerList, Columns
from lambda_grpo_pl.data.readers import (
    SUFFIXES,
    BadRowError,
    NamedRow,
    find_files,
    is_local,
    open_hub,
    read_files,
    read_hub,
)
from lambda_grpo_pl.data.templates import Template, find_template
from lambda_grpo_pl.errors import UserError

BUILTIN = f"{PREFIX}arithmetic"


class Rows(Protocol):
    """Rows in memory: a list of dicts, or a `datasets.Dataset`."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows, each a mapping."""
        ...


@dataclass(kw_only=True)
class PromptSource:
    """Where questions and gold answers are read."""

    path: str | None = BUILTIN
    """A built-in task such as `builtin:arithmetic`, a data set id on the Hugging Face hub, or local files: a .jsonl,
    .json, .csv, .tsv (each may end in .gz) or .parquet file, a glob, or a folder of shards. With `benchmark`: a local
    copy of it, or null for the hub."""
    name: str = ""
    """Name in metrics, tables and messages; empty: the benchmark, or the last part of the path."""
    benchmark: str | None = None
    """Benchmark or suite that sets columns, split and template (`gsm8k`, `math8`, …); for validation."""
    config: str | None = None
    """Configuration of a hub data set that has several."""
    split: str = "train"
    """Split of a hub data set, of a folder, or of the built-in task (train, validation, test)."""
    streaming: bool = False
    """Read while training instead of loading everything first; for sets too large for memory."""
    question_column: str = "question"
    """Column of the question, as text or as chat messages; `a+b` joins two columns, `a.b.0` reads item 0 of field b of
    column a, at any depth."""
    answer_column: str = "answer"
    """Column of the gold answer, in the same notation."""
    answer_format: AnswerFormat = "bare"
    """Where the gold is in its column: all of it, after `####`, in the last box, before a unit, in `$…$`."""
    answer_list: AnswerList | None = None
    """What a list of golds means: `any` of them is right, or `all` of them together are the answer. Null accepts
    lists of one answer only."""
    template: str | Template | None = None
    """Prompt template by name, a text that contains `{question}`, or the fields `text`, `stop`, `chat` and `system`.
    Null: the benchmark's template, none for a built-in task, chat for chat messages, else plain."""
    limit: int | None = None
    """Use only the first N rows."""
    rows: Rows | None = None
    """Rows in memory, instead of a path."""
    holds_messages: bool = field(init=False, default=False)
    """Whether the questions read so far are chat messages."""

    def __post_init__(self) -> None:
        if (self.benchmark is not None or self.rows is not None) and self.path == BUILTIN:
            self.path = None
        self.name = self.name or self._default_name()

    @property
    def columns(self) -> Columns:
        """Where rows keep question and gold."""
        if self.benchmark is not None:
            return BENCHMARKS[self.benchmark].columns
        return Columns(
            question=self.question_column,
            answer=self.answer_column,
            answer_format=self.answer_format,
            answer_list=self.answer_list,
        )

    @property
    def prompt_template(self) -> Template:
        """The template in use."""
        if self.template is not None:
            return find_template(self.template)
        if self.benchmark is not None:
            return find_template(BENCHMARKS[self.benchmark].template)
        if self.path is not None and self.path.startswith(PREFIX):
            return find_template("none")
        return find_template("chat" if self.holds_messages else "plain")

    @property
    def hub_id(self) -> str | None:
        """The data set on the hub that rows come from; None for local files and rows in memory."""
        path = self.path or (BENCHMARKS[self.benchmark].path if self.benchmark else None)
        return None if path is None or path.startswith(PREFIX) or is_local(path) else path

    @property
    def label(self) -> str:
        """What messages call the whole source."""
        return self.path or self.benchmark or f"the {self.name}"

    def _default_name(self) -> str:
        if self.benchmark is not None:
            return self.benchmark
        if self.path is None:
            return "rows"
        last = Path(self.path.removeprefix(PREFIX)).name
        return next((last.removesuffix(suffix) for suffix in SUFFIXES if last.endswith(suffix)), last)


def open_rows(source: PromptSource, key: str) -> Iterator[NamedRow]:
    """Yield (name, row or `BadRowError`), at most `source.limit`. Raises `UserError` with the configuration `key`."""
    return islice(_open(source, key), source.limit)


def open_stream(source: PromptSource, key: str) -> Any:
    """Return the source as a `datasets.IterableDataset`, for `read_stream`."""
    from datasets import IterableDataset  # slow to import

    if source.hub_id is not None:
        config, split = (source.config, source.split)
        return open_hub(source.hub_id, config, split, key, streaming=True)
    return IterableDataset.from_generator(_as_columns, gen_kwargs={"source": source, "key": key})


def read_stream(source: PromptSource, dataset: Any) -> Iterator[NamedRow]:
    """Yield (name, row) of a data set that `open_stream` returned, shuffled or not."""
    for index, row in enumerate(dataset):
        if source.hub_id is not None:
            yield f"{source.hub_id} ({source.split}), row {index} of the stream", row
        else:
            yield row["where"], row["row"]


def as_sources(value: PromptSource | str | Rows | Sequence[PromptSource | str], key: str) -> list[PromptSource]:
    """Return what a user gave for `key` as sources: a source, a path, rows, or a list of sources and paths.

    A suite of benchmarks becomes its members. Raises `UserError` with the full key of what is wrong.
    """
    if isinstance(value, PromptSource | str):
        given = [(key, value)]
    else:
        if isinstance(next(iter(value), None), Mapping):
            return [PromptSource(rows=cast(Rows, value))]
        given = [(f"{key}[{number}]", item) for number, item in enumerate(value)]
    sources = [member for place, item in given for member in _members(item, place)]
    (name, count), *_ = Counter(source.name for source in sources).most_common(1) or [("", 0)]
    if count > 1:
        raise UserError(
            f"{key} has {count} sets of the name {name!r}, so their scores would be mixed: give each its own in "
            f"{key}[…].name."
        )
    return sources


def validation_of(train: PromptSource) -> list[PromptSource]:
    """Return what evaluates a run that names no validation set: the test split of a built-in task, else nothing."""
    is_task = train.path is not None and train.path.startswith(PREFIX)
    return [PromptSource(path=train.path, split="test")] if is_task else []


def as_source(value: PromptSource | str | Rows, key: str) -> PromptSource:
    """Return the one source that a user gave for `key`."""
    sources = as_sources(value, key)
    if len(sources) != 1:
        raise UserError(f"{key} takes one source, but {len(sources)} were given: set one source, or rows.")
    return sources[0]


def _members(item: PromptSource | str | Any, key: str) -> list[PromptSource]:
    """Return a source, checked, or the members of its suite."""
    if isinstance(item, str):
        if item.lstrip().startswith(("{", "[")):
            raise UserError(_explain_unread(item, key))
        item = PromptSource(path=item)
    if not isinstance(item, PromptSource):
        raise UserError(f"{key} is a {type(item).__name__}: use a PromptSource, a path, or a list of rows.")
    if item.limit is not None and item.limit < 1:
        raise UserError(f"{key}.limit is {item.limit}: set it to 1 or more, or leave it out to use every row.")
    if item.path is None and item.benchmark is None and item.rows is None:
        raise UserError(f"{key} has no path and no benchmark: set one of them (in Python, or rows).")
    if item.template is not None:
        find_template(item.template, f"{key}.template")
    if item.benchmark is None:
        return [item]
    members = find_benchmarks([item.benchmark], f"{key}.benchmark")
    if item.benchmark not in SUITES:
        return [item]
    if item.name != item.benchmark:
        raise UserError(f"{key}.name is {item.name!r}, but the suite {item.benchmark!r} has several sets: remove it.")
    return [replace(item, benchmark=member.name, name="") for member in members]


def _explain_unread(text: str, key: str) -> str:
    """Return what is wrong with a mapping, or a list of them, that could not be read as sources."""
    names = [field.name for field in fields(PromptSource) if field.init and field.name != "rows"]
    unknown = [name for name in re.findall(r"(\w+)\s*:", text) if name not in names]
    near = get_close_matches(unknown[0], names, n=1) if unknown else []
    guess = f" (did you mean {near[0]}?)" if near else ""
    reason = f"{unknown[0]} is not a key of a source{guess}" if unknown else "it is not a source"
    return f"{key} is {text}, but {reason}: use the keys {', '.join(names)}."


def _open(source: PromptSource, key: str) -> Iterator[NamedRow]:
    if source.rows is not None:
        for number, row in enumerate(source.rows):
            known = isinstance(row, Mapping)
            yield f"{key}, row {number}", row if known else BadRowError(f"a {type(row).__name__}, not a mapping")
        return
    entry = None if source.benchmark is None else BENCHMARKS[source.benchmark]
    path = source.path or cast(Benchmark, entry).path
    config, split = (source.config, source.split) if entry is None else (entry.config, entry.split)
    if path.startswith(PREFIX):
        yield from ((row["id"], row) for row in read_task(path, split, source.limit, key))
    elif is_local(path):
        yield from read_files(find_files(path, split, key, source.benchmark))
    else:
        yield from read_hub(path, config, split, key)


def _as_columns(source: PromptSource, key: str) -> Iterator[dict[str, Any]]:
    for where, row in open_rows(source, key):
        yield {"where": where, "row": row}
