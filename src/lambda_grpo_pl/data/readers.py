"""Rows of a test set, from the hub or a local file, each named for error messages; and where a gold stands in them.

Nothing is skipped here: a question left out silently changes a score, so a bad row is an error that names its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".parquet")


def after_hashes(text: str) -> str:
    """Return what follows GSM8K's `####`; a single line without it is taken as the bare answer."""
    _, marker, answer = text.rpartition("####")
    if not marker and "\n" in text.strip():
        raise ValueError("the solution has no '####' before its answer")
    return answer.strip()


def last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{…}` of a worked solution, its inner braces balanced."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0 and "\\boxed{" in text:
            return text[start:position].strip()
    raise ValueError("the solution has no closed \\boxed{…}")


def before_unit(text: str) -> str:
    """Return ASDiv's answer without the unit that follows it in parentheses: `9 (apples)` is `9`."""
    return re.sub(r"\s+\([^()]*\)\s*$", "", text).strip()


def without_dollars(text: str) -> str:
    r"""Return a gold without its `$` marks; an escaped one (`\$5`) stays."""
    return re.sub(r"(?<!\\)\$", "", text).strip()


ANSWER_FORMATS: dict[str, Callable[[str], str]] = {
    "bare": str.strip,
    "hashes": after_hashes,
    "boxed": last_box,
    "unit": before_unit,
    "dollars": without_dollars,
}


def read_text(row: Row, column: str) -> str:
    """Return a column as text: `a+b` joins two columns with a space, `a.b` reads field b of the mapping in column a.

    A whole float loses its fraction (`145.0` is `145`) and a list its brackets. Raises `KeyError` with the name of a
    missing column, `ValueError` for an empty one.
    """
    if "+" in column:
        return " ".join(read_text(row, part) for part in column.split("+"))
    outer, _, inner = column.partition(".")
    value = row[outer][inner] if inner else row[outer]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    if not text:
        raise ValueError(f"column {column!r} is empty")
    return text


def has_columns(row: Row, column: str) -> bool:
    """Return whether a row has every column that `read_text` would read."""
    paths = (part.partition(".") for part in column.split("+"))
    return all(outer in row and (not inner or inner in row[outer]) for outer, _, inner in paths)


def question_and_answer(where: str, row: Row, question: str, answer: str, answer_format: str) -> tuple[str, str]:
    """Return a row's question and bare gold from the given columns, or from `question` and `answer` without them.

    Raises `ValueError` that begins with `where` and says what to change.
    """
    if not (has_columns(row, question) and has_columns(row, answer)):
        question, answer, answer_format = "question", "answer", "bare"
    try:
        return read_text(row, question), ANSWER_FORMATS[answer_format](read_text(row, answer))
    except KeyError as error:
        raise ValueError(
            f"{where}: no column {error}, only {', '.join(row)}; rename its columns to question and answer, or set "
            "question_column and answer_column."
        ) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}; correct the row, or remove it and say so beside the score.") from error


def hub_rows(hub_id: str, config: str | None, split: str) -> Iterator[tuple[str, Row]]:
    """Yield (name of the row, row) of a data set on the Hugging Face hub, or in its local cache."""
    from datasets import load_dataset  # slow to import, and needless for local files

    for index, row in enumerate(load_dataset(hub_id, config, split=split)):
        yield f"{hub_id} ({split}), row {index}", row


def local_rows(path: str | Path, name: str, split: str) -> Iterator[tuple[str, Row]]:
    """Yield (`file:line`, row) of a JSONL or Parquet file, or of `<split>` or `<name>/<split>` in a folder.

    Raises `ValueError` when no such file is there or a line is no JSON object.
    """
    file = find_file(Path(path), name, split)
    if file.suffix == ".parquet":
        from pyarrow import parquet

        for number, row in enumerate(parquet.read_table(file).to_pylist(), start=1):
            yield f"{file}:{number}", row
        return
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}:{number}", _parse(line, f"{file}:{number}")


def find_file(path: Path, name: str, split: str) -> Path:
    """Return the file that `path` means for a benchmark's name and split."""
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    splits = dict.fromkeys((split, "test"))  # a local copy of a hub's odd split is a test set all the same
    candidates = [folder / (each + end) for folder in (path / name, path) for each in splits for end in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"{path} holds no test file for {name!r}: give a {' or '.join(SUFFIXES)} file, or a folder with one of "
        f"{', '.join(str(candidate.relative_to(path)) for candidate in candidates)}."
    )


def _parse(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); write one object per line."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a JSON {type(row).__name__}, not an object; write one object per line.")
    return row
