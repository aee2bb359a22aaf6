"""Where a row keeps its question and its gold answer, and which values can be one.

A gold that no answer can equal would train on zero rewards without a word: NaN, True, the text of a mapping or of
bytes, a whole worked solution. Each is a `BadRowError` that says what to set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from lambda_grpo_pl.data.readers import BadRowError, Row

AnswerFormat = Literal["bare", "hashes", "boxed", "unit", "dollars"]
AnswerList = Literal["any", "all"]
Message = dict[str, str]
"""A turn of a conversation: `{"role": …, "content": …}`."""

UNJUDGEABLE = frozenset({"proof", "notfound", "not found", "null", "nan", "n/a"})
"""What data sets write where a problem has no final answer."""

_ALIASES = {
    "question": ("problem", "prompt", "query", "input", "instruction"),
    "answer": ("solution", "final_answer", "gold", "target", "ground_truth", "result", "label"),
}
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold the question and the gold; see `PromptSource` for the notation."""

    question: str = "question"
    answer: str = "answer"
    answer_format: AnswerFormat = "bare"
    answer_list: AnswerList | None = None

    def present_in(self, row: Row) -> bool:
        """Return whether a row has both columns."""
        try:
            for column in (self.question, self.answer):
                for part in _parts(row, column):
                    read_value(row, part)
        except BadRowError:
            return False
        return True


def after_hashes(text: str) -> str:
    """Return what follows GSM8K's `####`; a single line without it is taken as the bare answer."""
    _, marker, answer = text.rpartition("####")
    if not marker and "\n" in text.strip():
        raise BadRowError("the solution has no '####' before its answer")
    return answer.strip()


def last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}` of a worked solution, braces balanced; `\boxed 5` is 5.

    Raises `BadRowError` where no box is closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        raise BadRowError("the solution has no closed \\boxed{…}")
    start = boxes[-1].end()
    if not boxes[-1].group().endswith("{"):
        bare = re.match(r"[^\s$.,;]+(?:\.\d+)?", text[start:])
        if bare is None:
            raise BadRowError("the solution has no closed \\boxed{…}")
        return bare.group()
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position].strip()
    raise BadRowError("the solution has no closed \\boxed{…}")


def before_unit(text: str) -> str:
    """Return ASDiv's answer without the unit that follows it in parentheses: `9 (apples)` is `9`."""
    return re.sub(r"\s+\([^()]*\)\s*$", "", text).strip()


def without_dollars(text: str) -> str:
    r"""Return a gold without its `$` marks; an escaped one (`\$5`) stays."""
    return re.sub(r"(?<!\\)\$", "", text).strip()


def bare(text: str) -> str:
    """Return the whole column. Raises `BadRowError` for a worked solution, which no answer equals."""
    for marker, name in (("####", "hashes"), ("\\boxed", "boxed"), ("\\fbox", "boxed")):
        if marker in text and not re.fullmatch(r"\$*\\(?:boxed|fbox)\s*\{.*\}\$*", text):
            shown = text if len(text) <= 40 else f"…{text[-40:]}"
            raise BadRowError(
                f"the gold is a worked solution ({shown!r}), which no answer equals: set answer_format to {name}"
            )
    return text


ANSWER_FORMATS: dict[str, Callable[[str], str]] = {
    "bare": bare,
    "hashes": after_hashes,
    "boxed": last_box,
    "unit": before_unit,
    "dollars": without_dollars,
}


def read_value(row: Row, column: str) -> Any:
    """Return a column's value: `a.b.0` reads item 0 of field b of column a, at any depth.

    Raises `BadRowError` that lists the columns and suggests one.
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            present = list(_column_names(row))
            raise BadRowError(f"no column {column!r}, only {', '.join(present)}{_suggestion(column, present)}")
    return value


def read_question(row: Row, column: str) -> str | list[Message]:
    """Return the question as text, or as chat messages where the column holds those; `a+b` joins columns by a space."""
    parts = _parts(row, column)
    value = read_value(row, column) if len(parts) == 1 else None
    if isinstance(value, list):
        return _messages(value, column)
    return " ".join(_text(read_value(row, part), part) for part in parts)


def read_answers(row: Row, columns: Columns) -> list[str]:
    """Return the gold answers: one, or several of which any is right where `answer_list` is `any`."""
    take = ANSWER_FORMATS[columns.answer_format]
    parts = _parts(row, columns.answer)
    value = read_value(row, columns.answer) if len(parts) == 1 else None
    if not isinstance(value, list):
        gold = take(" ".join(_text(read_value(row, part), part) for part in parts))
        return [_not_empty(gold, columns.answer)]
    golds = [_not_empty(take(_text(each, columns.answer)), columns.answer) for each in value]
    if not golds:
        raise BadRowError(f"column {columns.answer!r} is an empty list")
    if len(golds) > 1 and columns.answer_list is None:
        raise BadRowError(
            f"column {columns.answer!r} holds {len(golds)} answers: set answer_list to any (each of them is right) or "
            "all (all of them together are the answer)"
        )
    return golds if columns.answer_list == "any" else [", ".join(golds)]


def _parts(row: Row, column: str) -> list[str]:
    return [column] if column in row else column.split("+")


def _not_empty(text: str, column: str) -> str:
    if not text:
        raise BadRowError(f"column {column!r} is empty")
    return text


def _text(value: Any, column: str) -> str:
    """Return a value as text. Raises `BadRowError` for one whose text cannot be meant."""
    if isinstance(value, Mapping):
        names = ", ".join(f"{column}.{name}" for name in value)
        raise BadRowError(f"column {column!r} holds fields, not a text: name one of {names}")
    if isinstance(value, bytes | list | tuple | set):
        raise BadRowError(f"column {column!r} holds {type(value).__name__}, not a text: store it as text")
    if isinstance(value, bool):
        raise BadRowError(f"column {column!r} holds the truth value {value}, not a text: store it as text")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRowError(f"column {column!r} holds {value}, which is not a number")
        value = int(value) if value.is_integer() and abs(value) < 1e16 else value
    text = "" if value is None else str(value).strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRowError(f"column {column!r} holds half of a surrogate pair, which is not a character")
    return _not_empty(text, column)


def _messages(value: list[Any], column: str) -> list[Message]:
    """Return chat messages with their role and text alone."""
    if not value:
        raise BadRowError(f"column {column!r} is an empty list")
    if not all(isinstance(each, Mapping) and {"role", "content"} <= each.keys() for each in value):
        raise BadRowError(f"column {column!r} holds a list, neither a text nor chat messages with role and content")
    if value[-1]["role"] == "assistant":
        raise BadRowError(
            f"the last message of column {column!r} is the assistant's, so the prompt would contain an answer: name "
            f"another column, such as {column}.0.content"
        )
    return [{"role": str(each["role"]), "content": _content(each["content"], column)} for each in value]


def _content(content: Any, column: str) -> str:
    if isinstance(content, list):
        parts = [part["text"] for part in content if isinstance(part, Mapping) and part.get("text") is not None]
        if len(parts) < len(content):
            raise BadRowError(f"a message of column {column!r} holds more than text, which is not supported")
        content = "".join(parts)
    return _text(content, column)


def _column_names(row: Row, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every field."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from _column_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _suggestion(column: str, present: list[str]) -> str:
    lower = {name.lower(): name for name in reversed(present)}
    for alias in (column.lower(), *_ALIASES.get(column, ())):
        if alias in lower:
            return f" (did you mean {lower[alias]!r}?)"
    last = [name for name in present if name.rpartition(".")[2] == column.rpartition(".")[2]]
    close = last or get_close_matches(column, present, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
