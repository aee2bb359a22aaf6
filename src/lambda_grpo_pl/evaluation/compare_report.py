"""A comparison as Markdown: scores with intervals, the differences behind the marks, and what limits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lambda_grpo_pl.evaluation.report import percent

if TYPE_CHECKING:
    from lambda_grpo_pl.evaluation.compare import Difference, Report
    from lambda_grpo_pl.evaluation.intervals import Interval
    from lambda_grpo_pl.evaluation.runs import Row

AVERAGE = "average"
METHODS = {"base": "Base model", "grpo": "GRPO", "dapo": "DAPO", "dr_grpo": "Dr. GRPO", "lambda": "λ-GRPO"}


def as_markdown(report: Report, by_model: bool = False) -> str:
    """Return a report's tables; `by_model` puts model and method in columns of their own, as the paper does."""
    marks = {(each.label, each.benchmark): _mark(each) for each in report.differences if each.holds}
    head = ["model", "method"] if by_model else ["method"]
    columns = [*report.benchmarks, *([AVERAGE] if any(AVERAGE in cells for cells in report.cells.values()) else [])]
    lines = _head([*head, *columns], num_left=len(head))
    for row in report.rows:
        cells = [_cell(report.cells[row.label].get(name), marks.get((row.label, name), "")) for name in columns]
        lines.append(_line([*(_names(row) if by_model else [_with_seeds(row.label, row)]), *cells]))
    confidence, num_tests = 100 * (1 - report.alpha), len(report.differences)
    lines += [
        "",
        f"Scores in % with {confidence:g} % intervals (bootstrap over questions). ▲ ▼: above or below the baseline on "
        f"the same questions, p < {report.alpha:.2g} after Holm's adjustment for {num_tests} differences.",
        "",
        *_differences(report.differences),
        *(["", *(f"* {note}" for note in report.notes)] if report.notes else []),
        "",
        "How each was asked, sampled and judged:",
        "",
        *(f"* **{name}**: {_settings_line(report, name)}" for name in report.benchmarks),
    ]
    return "\n".join(lines)


def _differences(differences: Sequence[Difference]) -> list[str]:
    """Return one line per difference, in percentage points."""
    head = ["baseline", "method", "benchmark", "questions", "points", "p bootstrap", "p McNemar", "p Holm", "holds"]
    lines = _head(head, num_left=3)
    for each in differences:
        found = each.comparison
        mcnemar = "–" if found.p_mcnemar is None else _p(found.p_mcnemar)
        points = f"{100 * found.difference.mean:+.1f} {_bounds(found.difference)}"
        shown = [str(found.num_questions), points, _p(found.p_bootstrap), mcnemar, _p(each.p_holm)]
        lines.append(_line([each.baseline, each.label, each.benchmark, *shown, "yes" if each.holds else "no"]))
    return lines


def _names(row: Row) -> list[str]:
    method = METHODS.get(row.info.method, row.info.method)
    return [row.info.model.rpartition("/")[2], _with_seeds(method, row)]


def _with_seeds(name: str, row: Row) -> str:
    return f"{name} ({row.num_seeds} seeds)" if row.num_seeds > 1 else name


def _settings_line(report: Report, benchmark: str) -> str:
    """Return how a benchmark was asked; the notes say where rows differ."""
    return next(row.settings[benchmark].describe() for row in report.rows if benchmark in row.settings)


def _cell(score: Interval | None, mark: str) -> str:
    return "–" if score is None else f"{percent(score.mean)} {_bounds(score)}{mark}"


def _bounds(interval: Interval) -> str:
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def _mark(difference: Difference) -> str:
    return " ▲" if difference.comparison.difference.mean > 0 else " ▼"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _head(names: Sequence[str], num_left: int) -> list[str]:
    return [_line(names), "|" + "---|" * num_left + "--:|" * (len(names) - num_left)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
