"""Rows of a data set, from local files or the Hugging Face hub, each with a name for error messages.

Local files are JSON Lines, JSON (an array, or indented objects one after another), CSV, TSV and Parquet; text files may
be gzip-compressed and start with a byte-order mark. A path is a file, a glob, or a folder of shards. A row that cannot
be parsed is yielded as a `BadRowError`, so that the caller decides whether to skip it.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from glob import glob
from glob import has_magic as is_glob
from pathlib import Path
from typing import Any

from lambda_grpo_pl.errors import UserError

Row = Mapping[str, Any]
TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
FORMATS = f"{', '.join(TEXT_SUFFIXES)} (each may end in .gz) or .parquet"
_NAMED_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])")
_SPACE = re.compile(r"\s*")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class BadRowError(Exception):
    """A single row is at fault, not the source."""


NamedRow = tuple[str, Row | BadRowError]
"""What messages call a row, and the row or the reason why it could not be parsed."""


def is_local(path: str) -> bool:
    """Return whether a path means files rather than a data set on the hub."""
    return path.startswith(("/", ".", "~")) or path.endswith(SUFFIXES) or is_glob(path) or Path(path).exists()


def find_files(path: str, split: str, key: str, benchmark: str | None = None) -> list[Path]:
    """Return the files that a path means: itself, the matches of a glob, or a folder's files of `split`.

    A folder whose file names mention splits (`train-00000-of-00002.parquet`, `test.jsonl`) gives those of `split`, any
    other folder all its data files. For a benchmark, a subfolder of its name is searched first, and `test` stands in
    for an unusual split of the hub. Raises `UserError` that starts with the configuration `key`.
    """
    place = Path(path).expanduser()
    if is_glob(path) and not place.exists():
        files = sorted(Path(match) for match in glob(str(place), recursive=True) if Path(match).is_file())
        if not files:
            raise UserError(f"{key}.path is {path}, but no file matches that pattern: fix the pattern.")
    elif place.is_dir():
        files = _in_folder(place, split, key, benchmark)
    elif place.exists():
        files = [place]
    else:
        raise UserError(f"{key}.path is {path}, but there is no file or folder of that name: fix the path.")
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise UserError(f"{key}.path names {file}, which has an unknown format: use {FORMATS}.")
    return files


def _in_folder(folder: Path, split: str, key: str, benchmark: str | None) -> list[Path]:
    folders = [folder / benchmark, folder] if benchmark else [folder]
    splits = dict.fromkeys((split, "test") if benchmark else (split,))
    for each in folders:
        files = sorted(file for file in each.glob("*") if file.name.endswith(SUFFIXES))
        for wanted in splits:
            if found := [file for file in files if re.match(rf"{re.escape(wanted)}(?![a-z])", file.name)]:
                return found
        if files and not benchmark and not any(_NAMED_SPLIT.match(file.name) for file in files):
            return files
    candidates = [str((each / wanted).relative_to(folder)) for each in folders for wanted in splits]
    raise UserError(
        f"{key}.path is {folder}, a folder without {' or '.join(f'{name}.jsonl' for name in candidates)} (or "
        f"another of {FORMATS}): fix the path, or name a file."
    )


def read_files(files: Iterable[Path]) -> Iterator[NamedRow]:
    """Yield every row of the files in order. Raises `UserError` for a file that cannot be read at all."""
    for file in files:
        try:
            yield from _reader(file)(file)
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            raise UserError(f"{file} cannot be read ({error}): check that the file is complete.") from error


def read_hub(path: str, config: str | None, split: str, key: str) -> Iterator[NamedRow]:
    """Yield the rows of a data set on the Hugging Face hub, or in its local cache."""
    dataset = open_hub(path, config, split, key)
    narrow = [name for name, feature in (dataset.features or {}).items() if _is_narrow(getattr(feature, "dtype", ""))]
    for index, row in enumerate(dataset):
        yield f"{path} ({split}), row {index}", _widen(row, narrow)


def open_hub(path: str, config: str | None, split: str, key: str, **options: Any) -> Any:
    """Open a data set on the hub. Raises `UserError` with the configuration `key` where that fails."""
    from datasets import load_dataset  # slow to import, and not needed for local files

    try:
        return load_dataset(path, config, split=split, **options)
    except (OSError, ValueError) as error:  # unknown id, configuration or split; no network and nothing cached
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"{key}.path is {path} (config {config}, split {split}), which could not be loaded from the Hugging Face "
            f"hub or its cache: {first}. Check the id, {key}.config and {key}.split, or give a local file."
        ) from error


def _reader(file: Path) -> Callable[[Path], Iterator[NamedRow]]:
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    return {"parquet": _read_parquet, "csv": _read_csv, "tsv": _read_csv}.get(kind, _read_json)


def _read_parquet(file: Path) -> Iterator[NamedRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file ({error}): rename it, or write it again.") from error
    narrow = [field.name for field in table.schema_arrow if _is_narrow(str(field.type))]
    number = 0
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{file}, row {number}", _widen(row, narrow)


def _is_narrow(dtype: str) -> bool:
    return dtype in ("float", "halffloat", "float32", "float16")


def _widen(row: Row, narrow: list[str]) -> Row:
    """Return a row whose 32-bit floats read as they were written: 0.1, not 0.10000000149011612."""
    import numpy as np

    written = {name: float(str(np.float32(row[name]))) for name in narrow if isinstance(row[name], float)}
    return {**row, **written} if written else row


def _read_csv(file: Path) -> Iterator[NamedRow]:
    delimiter = "\t" if ".tsv" in file.suffixes[-2:] else ","
    lines = (line if isinstance(line, str) else "" for _, line in _lines(file, strict=True))
    rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
    for row in rows:
        where = f"{file}:{rows.line_num}"
        spare = row.pop(None, None)  # type: ignore[call-overload]
        yield where, BadRowError("more fields than the header has columns") if spare else row


def _read_json(file: Path) -> Iterator[NamedRow]:
    """Yield one object per line, or those of an array or of indented objects where the first line is not an object."""
    lines = _lines(file)
    for number, line in lines:
        if isinstance(line, str) and not line.strip():
            continue
        row = _parse(line)
        if isinstance(row, BadRowError) and (whole := _parse_whole(file)):
            yield from whole
            return
        yield f"{file}:{number}", row
        break
    for number, line in lines:
        if isinstance(line, BadRowError) or line.strip():
            yield f"{file}:{number}", _parse(line)


def _parse(line: str | BadRowError) -> Row | BadRowError:
    if isinstance(line, BadRowError):
        return line
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRowError(f"not valid JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return BadRowError("JSON that is nested too deeply")
    return row if isinstance(row, dict) else BadRowError(f"a JSON {type(row).__name__}, not an object")


def _parse_whole(file: Path) -> list[NamedRow]:
    """Return the rows of a file that holds an array of objects, or objects over several lines; else nothing."""
    text = "".join(line for _, line in _lines(file) if isinstance(line, str))
    decoder, values, position = json.JSONDecoder(), [], 0
    try:
        while (position := _SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr]
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except (json.JSONDecodeError, RecursionError):
        return []
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not values or not isinstance(values[0], dict):
        return []
    return [
        (f"{file}, row {number}", row if isinstance(row, dict) else BadRowError(f"a JSON {type(row).__name__}"))
        for number, row in enumerate(values, start=1)
    ]


def _lines(file: Path, strict: bool = False) -> Iterator[tuple[int, str | BadRowError]]:
    """Yield (number, line) of a text file, without its byte-order mark; `strict` refuses bad bytes."""
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
        for number, line in enumerate(raw, start=1):
            if number == 1 and line.startswith(_UTF16_MARKS):
                raise UserError(f"{file}:1: the file is UTF-16: save it as UTF-8.")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}): save it as UTF-8"
                if strict:
                    raise UserError(f"{file}:{number}: {reason}.") from error
                yield number, BadRowError(reason)
