"""A comparison and its tables: scores with intervals, the differences behind the marks, and what limits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lambda_grpo_pl.evaluation.differences import Comparison
from lambda_grpo_pl.evaluation.intervals import Interval
from lambda_grpo_pl.evaluation.report import percent
from lambda_grpo_pl.evaluation.runs import MethodRuns

AVERAGE = "average"
METHOD_NAMES = {"base": "Base model", "grpo": "GRPO", "dapo": "DAPO", "dr_grpo": "Dr. GRPO", "lambda": "λ-GRPO"}
"""Names and order of methods in the layout `paper`; methods not listed here keep their own name and come last."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One method against its baseline on one benchmark."""

    label: str
    """The method."""
    baseline: str
    """What it is compared with."""
    benchmark: str
    """A benchmark, or `average`."""
    comparison: Comparison
    """Difference (method − baseline), interval and p-values."""
    p_holm: float
    """The p-value adjusted for all differences of the report."""
    holds: bool
    """Whether `p_holm` is below the report's α."""
    p_equivalence: float | None = None
    """The p-value of equivalence within the report's margin; None without a margin."""


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a comparison."""

    methods: list[MethodRuns]
    """In the order of the table's rows."""
    benchmarks: list[str]
    """In the order of the table's columns."""
    cells: dict[str, dict[str, Interval]]
    """Method label → benchmark, or `average`, → score."""
    differences: list[Difference]
    """Every method against its baseline."""
    notes: list[str]
    """What limits the comparison, in sentences."""
    alpha: float
    """Differences with an adjusted p-value below it hold."""
    margin: float | None = None
    """Margin of the equivalence test, as a share; None without one."""


def as_markdown(report: Report, by_model: bool = False) -> str:
    """Return a report's tables; `by_model` puts model and method in separate columns, as the paper does."""
    marks = {(each.label, each.benchmark): _mark(each) for each in report.differences if each.holds}
    head = ["model", "method"] if by_model else ["method"]
    columns = [*report.benchmarks, *([AVERAGE] if any(AVERAGE in cells for cells in report.cells.values()) else [])]
    lines = _format_head([*head, *columns], num_left=len(head))
    for method in report.methods:
        scores = report.cells[method.label]
        cells = [_format_score(scores.get(name), marks.get((method.label, name), "")) for name in columns]
        names = _name_in_paper(method) if by_model else [_with_seeds(method.label, method)]
        lines.append(_format_line([*names, *cells]))
    lines += [
        "",
        _describe_tests(report),
        "",
        *_format_differences(report),
        *(["", *(f"* {note}" for note in report.notes)] if report.notes else []),
        "",
        "How each benchmark was asked, sampled and judged:",
        "",
        *(f"* **{name}**: {_describe_setup(report, name)}" for name in report.benchmarks),
    ]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON holds it, without the values of single questions."""
    return {
        "methods": [
            {"label": method.label, "num_seeds": len(method.seeds), "seeds": method.seeds, **asdict(method.info)}
            for method in report.methods
        ],
        "benchmarks": report.benchmarks,
        "scores": {
            label: {name: cell._asdict() for name, cell in cells.items()} for label, cells in report.cells.items()
        },
        "differences": [
            {
                "label": each.label,
                "baseline": each.baseline,
                "benchmark": each.benchmark,
                "difference": each.comparison.difference._asdict(),
                "p_value": each.comparison.p_value,
                "p_mcnemar": each.comparison.p_mcnemar,
                "num_questions": each.comparison.num_questions,
                "standard_error": each.comparison.error.value,
                "variance_parts": each.comparison.error.parts,
                "p_holm": each.p_holm,
                "holds": each.holds,
                "p_equivalence": each.p_equivalence,
            }
            for each in report.differences
        ],
        "notes": report.notes,
        "alpha": report.alpha,
        "margin": report.margin,
    }


def _describe_tests(report: Report) -> str:
    confidence, num_tests = 100 * (1 - report.alpha), len(report.differences)
    several = any(len(method.seeds) > 1 for method in report.methods)
    text = (
        f"Scores in % with {confidence:g} % intervals (bootstrap over questions{' and seeds' if several else ''}). "
        "▲ ▼: above or below the baseline on the same questions, "
        f"p < {report.alpha:.2g} after Holm's adjustment for {num_tests} differences."
    )
    if report.margin is not None:
        text += f" p equivalent: two one-sided tests of a difference within ±{100 * report.margin:g} points."
    return text


def _format_differences(report: Report) -> list[str]:
    """Return one line per difference, in percentage points."""
    names = ["baseline", "method", "benchmark", "questions", "points", "p", "p McNemar", "p Holm", "holds"]
    lines = _format_head([*names, *(["p equivalent"] if report.margin is not None else [])], num_left=3)
    for each in report.differences:
        found = each.comparison
        mcnemar = "–" if found.p_mcnemar is None else _format_p(found.p_mcnemar)
        points = f"{100 * found.difference.mean:+.1f} {_format_bounds(found.difference)}"
        shown = [str(found.num_questions), points, _format_p(found.p_value), mcnemar, _format_p(each.p_holm)]
        shown += ["yes" if each.holds else "no"]
        shown += [] if each.p_equivalence is None else [_format_p(each.p_equivalence)]
        lines.append(_format_line([each.baseline, each.label, each.benchmark, *shown]))
    return lines


def _name_in_paper(method: MethodRuns) -> list[str]:
    name = METHOD_NAMES.get(method.info.method, method.info.method)
    return [method.info.model.rpartition("/")[2], _with_seeds(name, method)]


def _with_seeds(name: str, method: MethodRuns) -> str:
    return f"{name} ({len(method.seeds)} seeds)" if len(method.seeds) > 1 else name


def _describe_setup(report: Report, benchmark: str) -> str:
    """Return how a benchmark was asked; the notes say where methods differ."""
    return next(method.setups[benchmark].describe() for method in report.methods if benchmark in method.setups)


def _format_score(score: Interval | None, mark: str) -> str:
    return "–" if score is None else f"{percent(score.mean)} {_format_bounds(score)}{mark}"


def _format_bounds(interval: Interval) -> str:
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def _mark(difference: Difference) -> str:
    return " ▲" if difference.comparison.difference.mean > 0 else " ▼"


def _format_p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _format_head(names: Sequence[str], num_left: int) -> list[str]:
    return [_format_line(names), "|" + "---|" * num_left + "--:|" * (len(names) - num_left)]


def _format_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
