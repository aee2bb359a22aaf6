"""The scores of one evaluation: as Markdown for people, as JSON for programs, and as a table in the terminal.

The folder of an evaluation holds, and everything but the records can be computed again from them:

    <evaluation>/run.json                        whose scores these are
    <evaluation>/<benchmark>/records.parquet     one record per question
    <evaluation>/scores.md, scores.json          written by `write_tables`
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import EvaluationSetup, list_benchmarks, read_records, read_setup
from lambda_grpo_pl.evaluation.scores import QuestionTable, default_ks, summarize

RUN = "run.json"
SCORES = "scores.json"
SHARES = ("truncated", "no_answer", "verifier_failed")


@dataclass(kw_only=True)
class RunInfo:
    """Whose scores these are; `compare` labels rows with it."""

    model: str = ""
    """Base model, for example `Qwen/Qwen2.5-1.5B`."""
    method: str = ""
    """How it was trained, for example `base`, `grpo`, `dapo`, `dr_grpo`, `lambda`."""
    seed: int | None = None
    """Seed of the training run; None for a model that was not trained."""
    step: int = 0
    """Policy updates taken."""

    @property
    def label(self) -> str:
        """A short name: the model without its organization, and the method."""
        return " ".join(filter(None, (self.model.rpartition("/")[2].removeprefix("builtin:"), self.method)))


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The measures of one benchmark and the setup they depend on."""

    settings: EvaluationSetup
    """How the questions were asked and the responses judged."""
    measures: dict[str, float]
    """Every measure by name, as `scores.summarize` returns them."""

    @property
    def headline(self) -> float:
        """The measure that the benchmark is known by: accuracy, or mean score."""
        return self.measures[self.settings.metric]


def compute_average(results: Sequence[BenchmarkResult], average_over: Sequence[str] | None = None) -> float:
    """Return the plain mean of the headlines of the sets in `average_over`, or of all sets; `nan` for none.

    The logged `val/average`, `scores.md`, `scores.json` and the terminal all show this number. Raises `ValueError` if a
    set in `average_over` has no result.
    """
    headlines = {result.settings.benchmark: result.headline for result in results}
    chosen = list(average_over or headlines)
    if missing := [name for name in chosen if name not in headlines]:
        raise ValueError(f"evaluation.average_over names sets without a result: {', '.join(missing)}.")
    return math.fsum(headlines[name] for name in chosen) / len(chosen) if chosen else math.nan


def write_tables(
    folder: str | Path, run: RunInfo, results: Sequence[BenchmarkResult], average_over: Sequence[str] | None = None
) -> str:
    """Write `run.json`, `scores.json` and `scores.md` into an evaluation's folder and return the Markdown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = format_markdown(run, results, average_over)
    scores = {
        "average": _null_if_nan(compute_average(results, average_over)),
        "average_over": list(average_over or (result.settings.benchmark for result in results)),
        "benchmarks": {result.settings.benchmark: _jsonable(result) for result in results},
    }
    (folder / RUN).write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
    (folder / SCORES).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    (folder / "scores.md").write_text(text, encoding="utf-8")
    return text


def tabulate_records(folder: str | Path) -> list[BenchmarkResult]:
    """Return the results of an evaluation's folder in the registry's order, computed from its records alone.

    Raises `UserError` if the folder holds no records.
    """
    folders = {read_setup(each).benchmark: each for each in list_benchmarks(folder)}
    if not folders:
        raise UserError(f"{folder} holds no records: run `lambda-grpo validate` first, or fix the path.")
    results = []
    for benchmark in in_registry_order(folders):
        setup = read_setup(folders[benchmark])
        table = QuestionTable.of(record.question_scores() for record in read_records(folders[benchmark]))
        results.append(BenchmarkResult(settings=setup, measures=summarize(table, default_ks(setup.num_samples))))
    return results


def format_markdown(run: RunInfo, results: Sequence[BenchmarkResult], average_over: Sequence[str] | None = None) -> str:
    """Return a Markdown table of one run, followed by template, reward and sampling of every benchmark."""
    lines = [
        f"# {run.label or 'Evaluation'}, step {run.step}",
        "",
        "Accuracy and score in % with 95 % intervals over questions; lengths in tokens.",
        "",
        "| benchmark | questions | score | pass@n | maj@n | n | length (25 / 50 / 75 %) | correct / incorrect "
        "| truncated | no answer | verifier failed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *map(_markdown_row, results),
        f"| **{_name_average(average_over)}** | | **{percent(compute_average(results, average_over))}** "
        "| | | | | | | | |",
        "",
        "How each benchmark was asked, sampled and judged:",
        "",
        *(f"* **{result.settings.benchmark}**: {result.settings.describe()}" for result in results),
        *(f"* {line}" for line in describe_rewards(results)),
    ]
    return "\n".join(lines) + "\n"


def scores_table(
    run: RunInfo, results: Sequence[BenchmarkResult], average_over: Sequence[str] | None = None
) -> RenderableType:
    """Return a table for a terminal of 80 columns, with the setup of every set below it.

    It shows accuracy or score with its interval, the mean length in tokens, and the shares of responses that were
    truncated, hold no answer, or whose verifier failed.
    """
    when = "base model" if run.step == 0 else f"after {run.step} updates"
    table = Table(
        title=f"evaluation, {when}; shares in %", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("set", no_wrap=True)
    for column in ("questions", "score", "95 %", "tokens", "cut", "no answer", "failed"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_terminal_row(result))
    if len(results) > 1:
        table.add_section()
        table.add_row("average", "", percent(compute_average(results, average_over)))
    setups: dict[str, list[str]] = defaultdict(list)
    for result in results:
        setups[result.settings.describe()].append(result.settings.benchmark)
    notes = [f"{', '.join(names)}: {setup}" for setup, names in setups.items()] + describe_rewards(results)
    if average_over:
        notes.insert(0, _name_average(average_over))
    return Group(table, *(Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in notes))


def describe_rewards(results: Sequence[BenchmarkResult]) -> list[str]:
    """Return a line per distinct reward that says what it reads; none for setups that did not record it."""
    setups = (result.settings for result in results)
    return list(dict.fromkeys(f"{each.reward} reads {each.reward_reads}" for each in setups if each.reward_reads))


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal, without the sign; a dash for `nan`."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _name_average(average_over: Sequence[str] | None) -> str:
    return f"average over {', '.join(average_over)}" if average_over else "average"


def _markdown_row(result: BenchmarkResult) -> str:
    measures, metric, n = result.measures, result.settings.metric, result.settings.num_samples
    bounds = f"[{percent(measures[f'{metric}_low'])}, {percent(measures[f'{metric}_high'])}]"
    quartiles = " / ".join(_tokens(measures[f"length/{name}"]) for name in ("p25", "median", "p75"))
    split = " / ".join(_tokens(measures[f"length/{name}"]) for name in ("correct", "incorrect"))
    shares = " | ".join(percent(measures[name]) for name in SHARES)
    several = f"{percent(measures[f'pass@{n}'])} | {percent(measures[f'maj@{n}'])} | {n}"
    return (
        f"| {result.settings.benchmark} | {measures['num_questions']:.0f} | {percent(result.headline)} {bounds} "
        f"| {several} | {quartiles} | {split} | {shares} |"
    )


def _terminal_row(result: BenchmarkResult) -> list[str]:
    measures, metric, n = result.measures, result.settings.metric, result.settings.num_samples
    questions = f"{measures['num_questions']:.0f}" + f" ×{n}" * (n > 1)
    bounds = f"{percent(measures[f'{metric}_low'])}–{percent(measures[f'{metric}_high'])}"
    shares = [percent(measures[name]) for name in SHARES]
    length = _tokens(measures["length/mean"])
    return [result.settings.benchmark, questions, percent(result.headline), bounds, length, *shares]


def _tokens(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def _jsonable(result: BenchmarkResult) -> dict[str, Any]:
    measures = {name: _null_if_nan(value) for name, value in result.measures.items()}
    return {"settings": asdict(result.settings), "measures": measures}


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
