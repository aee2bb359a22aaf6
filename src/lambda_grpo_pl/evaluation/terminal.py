"""An evaluation's table for a terminal of 80 columns, with how each set was asked and judged beneath it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_grpo_pl.evaluation.extractors import describe_extraction
from lambda_grpo_pl.evaluation.report import BenchmarkResult, RunInfo, percent

COLUMNS = ("questions", "score", "95 %", "tokens", "cut", "no answer", "failed")


def scores_table(run: RunInfo, results: Sequence[BenchmarkResult], average: float) -> RenderableType:
    """Return the table; `average` is over the sets that the run is judged by.

    Accuracy or score with its interval, mean length in tokens, and the shares of responses that were cut at the limit,
    hold no answer, or whose verifier failed.
    """
    when = "base model" if run.step == 0 else f"after {run.step} updates"
    table = Table(
        title=f"evaluation, {when}; shares in %", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("set", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result))
    if len(results) > 1:
        table.add_section()
        table.add_row("average", "", percent(average))
    asked: dict[str, list[str]] = defaultdict(list)
    for result in results:
        asked[result.settings.describe()].append(result.settings.benchmark)
    notes = [f"{', '.join(names)}: {how}" for how, names in asked.items()]
    notes += describe_extraction(result.settings.reward for result in results)
    return Group(table, *(Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in notes))


def _cells(result: BenchmarkResult) -> list[str]:
    measures, metric, n = result.measures, result.settings.metric, result.settings.num_samples
    questions = f"{measures['num_questions']:.0f}" + f" ×{n}" * (n > 1)
    bounds = f"{percent(measures[f'{metric}_low'])}–{percent(measures[f'{metric}_high'])}"
    shares = [percent(measures[name]) for name in ("truncated", "no_answer", "verifier_failed")]
    length = f"{measures['length/mean']:.0f}"
    return [result.settings.benchmark, questions, percent(result.headline), bounds, length, *shares]
