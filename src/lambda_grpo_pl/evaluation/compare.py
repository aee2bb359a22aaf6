"""Methods × benchmarks with intervals, and which differences hold: `lambda-grpo compare RUN_A RUN_B …`.

Every row is compared with a baseline on the questions that both answered, and the p-values of all differences of a
report are adjusted together (Holm), so that one lucky cell among many does not count as a finding. The paper's table
(model sizes × GRPO, DAPO, Dr. GRPO, λ-GRPO × eight benchmarks) from a folder of runs is

    lambda-grpo compare --layout paper runs/*
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.evaluation.compare_report import AVERAGE, METHODS, as_markdown
from lambda_grpo_pl.evaluation.intervals import Comparison, Interval, average_interval, compare_averages, holm
from lambda_grpo_pl.evaluation.records import EvaluationSetup
from lambda_grpo_pl.evaluation.runs import Row, read_rows

Layout = Literal["methods", "paper"]
OWN_SETTINGS = {"policy", "seed"}  # runs may differ in these and still be measured the same way


@dataclass(frozen=True, slots=True)
class Difference:
    """One row against its baseline on one benchmark."""

    label: str
    """The row."""
    baseline: str
    """What it is compared with."""
    benchmark: str
    """A benchmark, or `average`."""
    comparison: Comparison
    """Difference (row − baseline), interval and p-values."""
    p_holm: float
    """The bootstrap p-value adjusted for all differences of the report."""
    holds: bool
    """Whether it is below the report's α."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a comparison found."""

    rows: list[Row]
    """In the order of the table."""
    benchmarks: list[str]
    """Columns, in the order of the table."""
    cells: dict[str, dict[str, Interval]]
    """Row label → benchmark, or `average`, → score."""
    differences: list[Difference]
    """Every row against its baseline."""
    notes: list[str]
    """What a reader has to know before believing the table."""
    alpha: float
    """Differences whose adjusted p-value lies below it hold."""


def compare(
    runs: Sequence[str | Path],
    layout: Layout = "methods",
    baseline: str | None = None,
    benchmarks: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Report:
    """Compare runs from their folders; α is 1 − `confidence`.

    `layout="methods"` compares every row with one baseline, `"paper"` with the baseline of its own model. `baseline` is
    a row's label or method: by default the first row, or method `grpo` in the paper's layout. `benchmarks` chooses the
    columns.

    Raises `ValueError` for fewer than two rows, unknown names, or runs without the model and method that the paper's
    layout needs.
    """
    rows = read_rows(runs)
    if len(rows) < 2:
        raise ValueError("There is nothing to compare: give at least two runs that differ in model or method.")
    if layout == "paper":
        rows = sorted(rows, key=_place_in_paper)
    columns = _columns(rows, benchmarks)
    shared = [name for name in columns if all(name in row.values for row in rows)]
    return Report(
        rows=rows,
        benchmarks=columns,
        cells={row.label: _cells(row, columns, shared, confidence) for row in rows},
        differences=_differences(_against(rows, layout, baseline), columns, shared, confidence),
        notes=_notes(rows, columns, shared),
        alpha=1 - confidence,
    )


def _place_in_paper(row: Row) -> tuple[float, str, int]:
    """Return a sort key: model size in billions, model, then method as the paper lists them."""
    if not row.info.model or not row.info.method:
        raise ValueError(f"{row.label} does not say its model and method: add them to its run.json, or use `methods`.")
    size = re.search(r"(\d+(?:\.\d+)?)[Bb]\b", row.info.model)
    known = list(METHODS)
    place = known.index(row.info.method) if row.info.method in known else len(known)
    return float(size[1]) if size else math.inf, row.info.model, place


def _columns(rows: Sequence[Row], chosen: Sequence[str] | None) -> list[str]:
    """Return the benchmarks of any row in the registry's order, or those that were asked for."""
    found = dict.fromkeys(name for row in rows for name in row.values)
    if chosen is None:
        return in_registry_order(found)
    missing = [name for name in chosen if name not in found]
    if missing:
        raise ValueError(f"No run evaluated {', '.join(missing)}: choose among {', '.join(found)}.")
    return list(chosen)


def _cells(row: Row, columns: Sequence[str], shared: Sequence[str], confidence: float) -> dict[str, Interval]:
    """Return a row's scores by benchmark, and their average over the benchmarks that every row has."""
    questions = {name: list(row.values[name].values()) for name in columns if name in row.values}
    cells = {name: average_interval([values], confidence) for name, values in questions.items()}
    if shared:
        cells[AVERAGE] = average_interval([questions[name] for name in shared], confidence)
    return cells


def _against(rows: Sequence[Row], layout: Layout, baseline: str | None) -> list[tuple[Row, Row]]:
    """Return (baseline, row) for every row that has a baseline other than itself."""
    wanted = baseline or ("grpo" if layout == "paper" else rows[0].label)
    if not any(wanted in (row.label, row.info.method) for row in rows):
        if baseline is not None:
            raise ValueError(
                f"No run is {baseline!r}: choose the baseline among {', '.join(row.label for row in rows)}."
            )
        wanted = rows[0].info.method
    pairs = []
    for row in rows:
        peers = [other for other in rows if layout == "methods" or other.info.model == row.info.model]
        base = next((other for other in peers if wanted in (other.label, other.info.method)), None)
        if base is not None and base is not row:
            pairs.append((base, row))
    return pairs


def _differences(
    pairs: Sequence[tuple[Row, Row]], columns: Sequence[str], shared: Sequence[str], confidence: float
) -> list[Difference]:
    """Return every row against its baseline on every benchmark both have and on average, adjusted together."""
    found: list[tuple[str, str, str, Comparison]] = []
    for base, row in pairs:
        paired = {name: base.paired(row, name) for name in columns if name in base.values and name in row.values}
        groups = {name: [name] for name in paired} | ({AVERAGE: list(shared)} if shared else {})
        for benchmark, members in groups.items():
            before, after = [paired[name][0] for name in members], [paired[name][1] for name in members]
            found.append((row.label, base.label, benchmark, compare_averages(before, after, confidence)))
    adjusted = holm([comparison.p_bootstrap for *_, comparison in found])
    return [Difference(*each, p_holm=p, holds=p < 1 - confidence) for each, p in zip(found, adjusted, strict=True)]


def _notes(rows: Sequence[Row], columns: Sequence[str], shared: Sequence[str]) -> list[str]:
    """Return what makes cells of a column incomparable, in sentences."""
    notes = []
    if len(shared) < len(columns):
        left_out = ", ".join(name for name in columns if name not in shared)
        notes.append(f"The average leaves out {left_out}: not every row has it.")
    for name in columns:
        having = [row for row in rows if name in row.values]
        first = having[0]
        for row in having[1:]:
            differing = _differing(first.settings[name], row.settings[name])
            if differing:
                notes.append(f"{name}: {first.label} and {row.label} differ in {differing}: not the same measurement.")
            shared_questions = len(first.values[name].keys() & row.values[name].keys())
            most = max(len(first.values[name]), len(row.values[name]))
            if shared_questions < most:
                notes.append(f"{name}: {first.label} and {row.label} share {shared_questions} of {most} questions.")
    return notes


def _differing(one: EvaluationSetup, other: EvaluationSetup) -> str:
    names = [each.name for each in fields(one) if each.name not in OWN_SETTINGS]
    values = ((name, getattr(one, name), getattr(other, name)) for name in names)
    return ", ".join(f"{name} ({mine}; {theirs})" for name, mine, theirs in values if mine != theirs)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON holds it, without the values of single questions."""
    return {
        "rows": [{"label": row.label, "num_seeds": row.num_seeds, **asdict(row.info)} for row in report.rows],
        "benchmarks": report.benchmarks,
        "scores": {
            label: {name: cell._asdict() for name, cell in cells.items()} for label, cells in report.cells.items()
        },
        "differences": [
            {
                "label": each.label,
                "baseline": each.baseline,
                "benchmark": each.benchmark,
                **each.comparison._asdict(),
                "difference": each.comparison.difference._asdict(),
                "p_holm": each.p_holm,
                "holds": each.holds,
            }
            for each in report.differences
        ],
        "notes": report.notes,
        "alpha": report.alpha,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a comparison as Markdown and write it as JSON; the command line of `lambda-grpo compare`."""
    parser = argparse.ArgumentParser(
        prog="lambda-grpo compare", description="Compare evaluated runs, question by question."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or of one evaluation of a run")
    parser.add_argument("--layout", choices=get_args(Layout), default="methods", help="paper: by model size and method")
    parser.add_argument("--baseline", help="label or method that the others are compared with")
    parser.add_argument("--benchmarks", nargs="+", help="columns; all that were evaluated by default")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals; differences hold at 1 - this")
    parser.add_argument("--json", type=Path, help="file for the same numbers as JSON")
    arguments = parser.parse_args(argv)
    try:
        report = compare(
            arguments.runs, arguments.layout, arguments.baseline, arguments.benchmarks, arguments.confidence
        )
    except ValueError as error:
        parser.error(str(error))
    print(as_markdown(report, by_model=arguments.layout == "paper"))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
