"""The benchmarks an evaluation knows by name, and how a row of each becomes a question and a gold answer.

An entry says where its questions lie (hub id, split, columns), how they are asked (template, samples, length), how they
are scored (a reward name: the same function that trains) and whose they are (source, licence). Adding one is five lines
in `BENCHMARKS`. Every entry also reads a local file with the columns `id`, `question` and `answer`.

Hub ids and columns were read in public harnesses. AIME and AMC have few questions, so they are sampled several times:
one greedy answer to each of 30 questions has a standard error of up to nine points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lambda_grpo_pl.data.readers import ANSWER_FORMATS, Row, hub_rows, local_rows, question_and_answer
from lambda_grpo_pl.data.templates import find_template
from lambda_grpo_pl.sampling_settings import SamplingParameters

AnswerFormat = Literal["bare", "hashes", "boxed", "unit", "dollars"]


@dataclass(kw_only=True)
class Benchmark(SamplingParameters):
    """One test set: where it lies, how it is asked, how it is scored, whose it is."""

    name: str
    """Its key in `BENCHMARKS`, in tables and in the metric names `val/<name>/…`."""
    hub_id: str
    """Data set on the Hugging Face hub."""
    config: str | None = None
    """The hub data set's configuration, where it has several."""
    split: str = "test"
    """Split on the hub; `train+test` joins two."""
    question_column: str = "question"
    """Column of the question; `a+b` joins two with a space, `a.b` reads field b of column a."""
    answer_column: str = "answer"
    """Column of the gold answer, in the same notation."""
    answer_format: AnswerFormat = "bare"
    """Where the gold stands in its column: all of it, after `####`, in the last box, before a unit, in `$…$`."""
    template: str = "plain"
    """Prompt template by name, or a text that holds `{question}`."""
    reward: str = "math"
    """Reward function by name: what counts as correct."""
    reward_params: dict[str, Any] = field(default_factory=dict)
    """Arguments of the reward function."""
    metric: Literal["accuracy", "score"] = "accuracy"
    """The headline: the share of correct answers, or the mean score where nothing is simply right or wrong."""
    temperature: float = 0.0
    """Greedy unless the entry says otherwise."""
    max_tokens: int = 3072
    """Longest response in tokens."""
    source: str = ""
    """Who published it."""
    licence: str = ""
    """Terms of the questions as their publisher states them."""

    def __post_init__(self) -> None:
        find_template(self.template)
        if self.answer_format not in ANSWER_FORMATS:
            raise ValueError(
                f"Benchmark {self.name!r} has answer_format {self.answer_format!r}: use {', '.join(ANSWER_FORMATS)}."
            )
        self.check_sampling(f"Benchmark {self.name!r}")
        if self.num_samples > 1 and self.greedy:
            raise ValueError(
                f"Benchmark {self.name!r} asks for {self.num_samples} greedy samples, which are all the same: "
                "set temperature above 0 or num_samples to 1."
            )


def _translation(name: str, hub_id: str, source: str, target: str, columns: str, pair: str, licence: str) -> Benchmark:
    """Return a benchmark whose column `columns` maps each language to its sentence."""
    return Benchmark(
        name=name,
        hub_id=hub_id,
        config=pair,
        question_column=f"{columns}.{source}",
        answer_column=f"{columns}.{target}",
        template=f"translate_{source}_{target}",
        reward="chrf",
        metric="score",
        max_tokens=256,
        source=hub_id,
        licence=licence,
    )


# fmt: off
_ENTRIES = (
    Benchmark(
        name="gsm8k", hub_id="openai/gsm8k", config="main", answer_format="hashes", max_tokens=1024,
        source="openai/grade-school-math, 1319 questions", licence="MIT",
    ),
    Benchmark(
        name="math500", hub_id="HuggingFaceH4/MATH-500", question_column="problem",
        source="500 questions of MATH chosen by PRM800K", licence="MIT",
    ),
    Benchmark(
        name="math", hub_id="DigitalLearningGmbH/MATH-lighteval", question_column="problem", answer_column="solution",
        answer_format="boxed", source="hendrycks/math, 5000 questions", licence="MIT",
    ),
    Benchmark(
        name="minerva_math", hub_id="math-ai/minervamath",
        source="272 questions of MIT OpenCourseWare", licence="MIT OpenCourseWare terms, non-commercial",
    ),
    Benchmark(
        name="gaokao2023en", hub_id="MARIO-Math-Reasoning/Gaokao2023-Math-En", split="train",
        source="385 translated exam questions", licence="not stated",
    ),
    Benchmark(
        name="olympiadbench", hub_id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train",
        answer_column="final_answer", answer_format="dollars",
        source="OpenBMB/OlympiadBench, 675 questions", licence="MIT",
    ),
    Benchmark(
        name="college_math", hub_id="realtreetune/college_math",
        source="2818 questions of nine textbooks", licence="per question: CC BY, CC BY-NC-SA, GFDL and others",
    ),
    Benchmark(
        name="aime24", hub_id="math-ai/aime24", question_column="problem", answer_column="solution",
        answer_format="boxed", num_samples=32, temperature=1.0,
        source="AIME 2024, 30 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="aime25", hub_id="math-ai/aime25", question_column="problem", num_samples=32, temperature=1.0,
        source="AIME 2025, 30 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="amc23", hub_id="math-ai/amc23", num_samples=8, temperature=1.0,
        source="AMC 12 2023, 40 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="svamp", hub_id="ChilleD/SVAMP", split="train+test", question_column="Body+Question",
        answer_column="Answer", max_tokens=1024, source="arkilpatel/SVAMP, 1000 questions", licence="MIT",
    ),
    Benchmark(
        name="asdiv", hub_id="EleutherAI/asdiv", split="validation", question_column="body+question",
        answer_format="unit", max_tokens=1024, source="chaochun/nlu-asdiv-dataset", licence="CC BY-NC 4.0",
    ),
    Benchmark(  # the 2065 questions other harnesses use are on no hub: read those from a file
        name="mawps", hub_id="MU-NLPC/Calc-mawps", answer_column="result", max_tokens=1024,
        source="MAWPS as filtered by Calc-X", licence="MIT",
    ),
    Benchmark(
        name="cnn_dailymail", hub_id="abisee/cnn_dailymail", config="3.0.0", question_column="article",
        answer_column="highlights", template="summarize", reward="rouge", metric="score", max_tokens=256,
        source="CNN/DailyMail 3.0.0, 11490 articles", licence="Apache-2.0",
    ),
    Benchmark(
        name="xsum", hub_id="EdinburghNLP/xsum", question_column="document", answer_column="summary",
        template="summarize", reward="rouge", metric="score", max_tokens=128,
        source="XSum, 11334 articles", licence="not stated",
    ),
    _translation("wmt14_de_en", "wmt/wmt14", "de", "en", "translation", "de-en", "not stated; for research"),
    _translation("wmt14_en_de", "wmt/wmt14", "en", "de", "translation", "de-en", "not stated; for research"),
    _translation("flores_de_en", "haoranxu/FLORES-200", "de", "en", "de-en", "de-en", "CC BY-SA 4.0"),
    _translation("flores_en_de", "haoranxu/FLORES-200", "en", "de", "en-de", "en-de", "CC BY-SA 4.0"),
)
# fmt: on

BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in _ENTRIES}

MATH8 = ("gsm8k", "math500", "minerva_math", "gaokao2023en", "olympiadbench", "college_math", "aime24", "amc23")
SUITES: dict[str, tuple[str, ...]] = {
    "math8": MATH8,
    "grade_school": ("gsm8k", "svamp", "asdiv", "mawps"),
    "competition": ("aime24", "aime25", "amc23", "olympiadbench"),
    "summarization": ("cnn_dailymail", "xsum"),
    "translation": ("wmt14_de_en", "wmt14_en_de", "flores_de_en", "flores_en_de"),
}


def find_benchmarks(names: Iterable[str]) -> list[Benchmark]:
    """Return the entries of benchmark and suite names, suites spelled out, each once, in the order given.

    Raises `ValueError` that lists the known names.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        for member in SUITES.get(name, (name,)):
            if member not in BENCHMARKS:
                raise ValueError(
                    f"No benchmark or suite {name!r}: use {', '.join(BENCHMARKS)}, or a suite: {', '.join(SUITES)}."
                )
            found[member] = BENCHMARKS[member]
    return list(found.values())


def in_registry_order(names: Iterable[str]) -> list[str]:
    """Return names as `BENCHMARKS` lists them, unknown ones last: the order of rows and columns in tables."""
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    return sorted(names, key=lambda name: places.get(name, len(places)))


def load_benchmark(
    benchmark: Benchmark, path: str | Path | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return a benchmark's questions, from the hub or from a local file, in their published order.

    `path` is a JSONL or Parquet file, a folder with `<split>.jsonl` or `.parquet`, or a folder of such folders named
    after benchmarks; its rows have the hub's columns, or `question` and `answer` (bare) and optionally `id`. `limit`
    keeps the first so many questions. Each row comes back with `id`, `index`, `question`, `answer`, its other columns.

    Raises `ValueError` that names file, line and what to change for a malformed, empty or repeated row: leaving a
    question out would silently change the score.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: set it to 1 or above, or leave it out to load every question.")
    rows = (
        local_rows(path, benchmark.name, benchmark.split)
        if path
        else hub_rows(benchmark.hub_id, benchmark.config, benchmark.split)
    )
    examples: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        if len(examples) == limit:
            break
        example = _example(benchmark, where, row, index=len(examples))
        if example["id"] in seen:
            raise ValueError(
                f"{where}: id {example['id']!r} was used by {seen[example['id']]}; give each question its own."
            )
        seen[example["id"]] = where
        examples.append(example)
    if not examples:
        raise ValueError(
            f"{path or benchmark.hub_id} holds no question: check the path and the split {benchmark.split!r}."
        )
    return examples


def _example(benchmark: Benchmark, where: str, row: Row, index: int) -> dict[str, Any]:
    """Return one question of a benchmark; an id is made up where the row has none."""
    columns = (benchmark.question_column, benchmark.answer_column, benchmark.answer_format)
    question, answer = question_and_answer(where, row, *columns)
    identity = str(row.get("id", f"{benchmark.name}-{index:05d}"))
    known = {"id": identity, "index": index, "question": question, "answer": answer, "benchmark": benchmark.name}
    return {**row, **known}
