"""Which responses a page holds: as many from each evaluation, the same questions for every run, within a bound.

A page with every response of a long run would not open. Questions are taken in the order of a hash of their ids: a
sample that does not depend on the scores, and in which the runs answer the same questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from lambda_grpo_pl.evaluation.records import QuestionRecord, read_records
from lambda_grpo_pl.reporting.runs import Run
from lambda_grpo_pl.reporting.tables import read_or_note

DEFAULT_RESPONSES = 2000
"""Responses in a page unless the user asks for another number."""
MAX_CHARACTERS = 20_000
"""Longest text of a prompt, an answer or a response in a page; longer ones are cut."""
MAX_TOTAL_CHARACTERS = 12_000_000
"""All texts of a page together."""


class Cell(NamedTuple):
    """The answers of one evaluation to one benchmark."""

    run: int
    """Index of the run."""
    step: int
    benchmark: str
    records: list[QuestionRecord]
    """Those that may be shown, in the order in which they are taken."""


@dataclass
class Responses:
    """What a page holds to read."""

    questions: list[dict[str, Any]] = field(default_factory=list)
    """Prompt and gold answer of each question, once for all runs."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """One response each; `question` is an index into `questions`."""
    num_total: int = 0
    """Responses in the records of all runs."""


def choose_responses(runs: Sequence[Run], limit: int = DEFAULT_RESPONSES) -> Responses:
    """Return at most `limit` responses of the runs, of whole questions, and at most `MAX_TOTAL_CHARACTERS` of text."""
    places = list(_find_records(runs))
    found = Responses()
    cells = []
    for run, step, benchmark, place in places:
        cell = Cell(run, step, benchmark, read_or_note(read_records, place, runs[run].notes) or [])
        found.num_total += sum(len(record.completions) for record in cell.records)
        cells.append(cell._replace(records=_shortlist(cell.records, limit // len(places))))
    known: dict[tuple[str, str, str], int] = {}
    characters = 0
    for layer in zip_longest(*(cell.records for cell in cells)):
        for cell, record in zip(cells, layer, strict=True):
            if record is None or len(found.items) + len(record.completions) > limit:
                continue
            characters += _count_characters(record)
            if characters > MAX_TOTAL_CHARACTERS:
                return found
            question = _add_question(found, known, cell.benchmark, record)
            found.items += (_describe(cell, record, question, sample) for sample in range(len(record.completions)))
    return found


def cut(text: str) -> tuple[str, int]:
    """Return the start of a text, and how many characters are left out."""
    return text[:MAX_CHARACTERS], max(0, len(text) - MAX_CHARACTERS)


def _find_records(runs: Sequence[Run]) -> Iterator[tuple[int, int, str, Path]]:
    for index, run in enumerate(runs):
        for evaluation in run.evaluations:
            for benchmark, place in evaluation.records.items():
                yield index, evaluation.step, benchmark, place


def _shortlist(records: list[QuestionRecord], share: int) -> list[QuestionRecord]:
    """Return the first records in the order of the hash, of about `share` responses, at least one record."""
    ordered = sorted(records, key=lambda record: hashlib.blake2b(record.id.encode("utf-8", "replace")).digest())
    longest = max((len(record.completions) for record in records), default=1)
    return ordered[: max(1, share // max(1, longest))]


def _count_characters(record: QuestionRecord) -> int:
    return sum(min(len(text), MAX_CHARACTERS) for text in (record.prompt, record.answer, *record.completions))


def _add_question(
    found: Responses, known: dict[tuple[str, str, str], int], benchmark: str, record: QuestionRecord
) -> int:
    """Return the index of a question, which is added unless another run or step asked it too."""
    key = benchmark, record.id, record.prompt
    if key not in known:
        known[key] = len(found.questions)
        (prompt, left_out), (answer, _) = cut(record.prompt), cut(record.answer)
        found.questions.append(
            {
                "benchmark": benchmark,
                "id": record.id[:200],
                "index": record.index,
                "prompt": prompt,
                "leftOut": left_out,
                "answer": answer,
            }
        )
    return known[key]


def _describe(cell: Cell, record: QuestionRecord, question: int, sample: int) -> dict[str, Any]:
    text, left_out = cut(record.completions[sample])
    extracted = record.extracted[sample]
    return {
        "run": cell.run,
        "step": cell.step,
        "question": question,
        "sample": sample,
        "text": text,
        "leftOut": left_out,
        "extracted": None if extracted is None else cut(extracted)[0],
        "correct": record.correct[sample],
        "score": record.scores[sample],
        "status": record.status[sample],
        "length": record.lengths[sample],
        "truncated": record.truncated[sample],
    }
