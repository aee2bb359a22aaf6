"""The table an evaluation ends with, as Markdown for people and JSON for programs.

A folder of an evaluation looks like this, and everything in it but the records can be made again from them:

    <evaluation>/run.json                        whose scores these are
    <evaluation>/<benchmark>/records.parquet     one record per question
    <evaluation>/scores.md, scores.json          what `write_tables` writes
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.evaluation.extractors import describe_extraction
from lambda_grpo_pl.evaluation.records import EvaluationSetup, read_records, read_settings
from lambda_grpo_pl.evaluation.scores import QuestionTable, default_ks, summarize

RUN = "run.json"
SCORES = "scores.json"


@dataclass(kw_only=True)
class RunInfo:
    """Whose scores these are; `compare` labels its rows and columns with it."""

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
        """A short name: the model without its organisation, and the method."""
        return " ".join(filter(None, (self.model.rpartition("/")[2], self.method)))


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The measures of one benchmark and the settings they depend on."""

    settings: EvaluationSetup
    """How it was asked and judged."""
    measures: dict[str, float]
    """Every measure by name, as `table.summarize` returns them."""

    @property
    def headline(self) -> float:
        """The measure that the benchmark is known by: accuracy, or mean score."""
        return self.measures[self.settings.metric]


def write_tables(folder: str | Path, run: RunInfo, results: Sequence[BenchmarkResult]) -> str:
    """Write `run.json`, `scores.json` and `scores.md` into an evaluation's folder and return the Markdown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(run, results)
    scores = {result.settings.benchmark: _jsonable(result) for result in results}
    average = _finite(average_of(results))
    (folder / RUN).write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
    (folder / SCORES).write_text(json.dumps({"average": average, "benchmarks": scores}, indent=2) + "\n", "utf-8")
    (folder / "scores.md").write_text(text, encoding="utf-8")
    return text


def tabulate_records(folder: str | Path) -> list[BenchmarkResult]:
    """Return the results of an evaluation's folder in the registry's order, computed again from its records alone.

    Raises `ValueError` where the folder holds no records.
    """
    folders = {read_settings(file.parent).benchmark: file.parent for file in sorted(Path(folder).glob("*/*.parquet"))}
    if not folders:
        raise ValueError(f"{folder} holds no records: run `lambda-grpo validate` first, or check the path.")
    results = []
    for benchmark in in_registry_order(folders):
        settings = read_settings(folders[benchmark])
        table = QuestionTable.of(record.question_scores() for record in read_records(folders[benchmark]))
        results.append(BenchmarkResult(settings=settings, measures=summarize(table, default_ks(settings.num_samples))))
    return results


def average_of(results: Sequence[BenchmarkResult]) -> float:
    """Return the plain mean of the headlines, each benchmark counting the same; `nan` for none."""
    return math.fsum(result.headline for result in results) / len(results) if results else math.nan


def markdown(run: RunInfo, results: Sequence[BenchmarkResult]) -> str:
    """Return a Markdown table of one run, with template, extractor and sampling settings under it."""
    lines = [
        f"# {run.label or 'Evaluation'}, step {run.step}",
        "",
        "Accuracy and score in % with 95 % intervals over questions; lengths in tokens.",
        "",
        "| benchmark | questions | score | pass@n | maj@n | n | length (25 / 50 / 75 %) | correct / incorrect "
        "| truncated | no answer | verifier failed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *map(_row, results),
        f"| **average** | | **{percent(average_of(results))}** | | | | | | | | |",
        "",
        "How each was asked, sampled and judged:",
        "",
        *(f"* **{result.settings.benchmark}**: {result.settings.describe()}" for result in results),
        *(f"* {line}" for line in describe_extraction(result.settings.reward for result in results)),
    ]
    return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal, without the sign; a dash for `nan`."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _row(result: BenchmarkResult) -> str:
    measures, metric = result.measures, result.settings.metric
    n = result.settings.num_samples
    bounds = f"[{percent(measures[f'{metric}_low'])}, {percent(measures[f'{metric}_high'])}]"
    quartiles = " / ".join(_tokens(measures[f"length/{name}"]) for name in ("p25", "median", "p75"))
    split = " / ".join(_tokens(measures[f"length/{name}"]) for name in ("correct", "incorrect"))
    shares = " | ".join(percent(measures[name]) for name in ("truncated", "no_answer", "verifier_failed"))
    several = f"{percent(measures[f'pass@{n}'])} | {percent(measures[f'maj@{n}'])} | {n}"
    return (
        f"| {result.settings.benchmark} | {measures['num_questions']:.0f} | {percent(result.headline)} {bounds} "
        f"| {several} | {quartiles} | {split} | {shares} |"
    )


def _tokens(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def _jsonable(result: BenchmarkResult) -> dict[str, Any]:
    measures = {name: _finite(value) for name, value in result.measures.items()}
    return {"settings": asdict(result.settings), "measures": measures}


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold; `nan` becomes null."""
    return None if math.isnan(value) else value
