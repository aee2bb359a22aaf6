"""The benchmarks an evaluation knows by name, and how a row of each becomes a question and a gold answer.

An entry says where its questions are (path, split, columns), how they are asked (template, samples, length), how they
are scored (a reward name: the same function that trains) and who published them (source, licence). Adding one is five
lines in `BENCHMARKS`, or an item of `data.benchmarks`. Every entry also reads a local file with the columns `id`,
`question` and `answer`.

Hub ids and columns were read in public harnesses. AIME and AMC have few questions, so they are sampled several times:
one greedy answer to each of 30 questions has a standard error of up to nine points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from lambda_grpo_pl.data.columns import ANSWER_FORMATS, AnswerFormat, AnswerList, Columns
from lambda_grpo_pl.data.templates import Template, find_template
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling_settings import SamplingParameters


@dataclass(kw_only=True)
class Benchmark(SamplingParameters):
    """One test set: where its questions are, how they are asked and scored, and who published them."""

    name: str
    """Its key in `BENCHMARKS`, in tables and in the metric names `val/<name>/…`."""
    path: str
    """Data set on the Hugging Face hub, or a local file, folder or glob."""
    config: str | None = None
    """The hub data set's configuration, where it has several."""
    split: str = "test"
    """Split on the hub or in a folder; on the hub `train+test` joins two."""
    question_column: str = "question"
    """Column of the question; `a+b` joins two with a space, `a.b` reads field b of column a."""
    answer_column: str = "answer"
    """Column of the gold answer, in the same notation."""
    answer_format: AnswerFormat = "bare"
    """Where the gold is in its column: all of it, after `####`, in the last box, before a unit, in `$…$`."""
    answer_list: AnswerList | None = None
    """What a list of golds means: `any` of them is right, or `all` of them together are the answer."""
    template: str | Template = "plain"
    """Prompt template by name, a text that contains `{question}`, or the fields `text`, `stop`, `chat` and `system`."""
    reward: str = "math"
    """Reward function by name: what counts as correct."""
    reward_params: dict[str, Any] = field(default_factory=dict)
    """Arguments of the reward function."""
    metric: Literal["accuracy", "score"] = "accuracy"
    """The headline: the share of correct answers, or the mean score where nothing is simply right or wrong."""
    temperature: float = 0.0
    """Greedy unless the entry says otherwise."""
    max_tokens: int = 3072
    """Response tokens after which a response is truncated."""
    source: str = ""
    """Who published it."""
    licence: str = ""
    """Terms of the questions as their publisher states them."""

    def __post_init__(self) -> None:
        if self.answer_format not in ANSWER_FORMATS:
            raise UserError(
                f"Benchmark {self.name!r} has answer_format {self.answer_format!r}: use {', '.join(ANSWER_FORMATS)}."
            )
        self.check_sampling(f"Benchmark {self.name!r}")
        if self.num_samples > 1 and self.greedy:
            raise UserError(
                f"Benchmark {self.name!r} would draw {self.num_samples} identical samples per question (temperature "
                "0): set temperature above 0 or num_samples to 1."
            )

    @property
    def columns(self) -> Columns:
        """Where its rows keep question and gold."""
        return Columns(
            question=self.question_column,
            answer=self.answer_column,
            answer_format=self.answer_format,
            answer_list=self.answer_list,
        )


def _translation(name: str, path: str, source: str, target: str, columns: str, pair: str, licence: str) -> Benchmark:
    """Return a benchmark whose column `columns` maps each language to its sentence."""
    return Benchmark(
        name=name,
        path=path,
        config=pair,
        question_column=f"{columns}.{source}",
        answer_column=f"{columns}.{target}",
        template=f"translate_{source}_{target}",
        reward="chrf",
        metric="score",
        max_tokens=256,
        source=path,
        licence=licence,
    )


# fmt: off
_ENTRIES = (
    Benchmark(
        name="gsm8k", path="openai/gsm8k", config="main", answer_format="hashes", max_tokens=1024,
        source="openai/grade-school-math, 1319 questions", licence="MIT",
    ),
    Benchmark(
        name="math500", path="HuggingFaceH4/MATH-500", question_column="problem",
        source="500 questions of MATH chosen by PRM800K", licence="MIT",
    ),
    Benchmark(
        name="math", path="DigitalLearningGmbH/MATH-lighteval", question_column="problem", answer_column="solution",
        answer_format="boxed", source="hendrycks/math, 5000 questions", licence="MIT",
    ),
    Benchmark(
        name="minerva_math", path="math-ai/minervamath",
        source="272 questions of MIT OpenCourseWare", licence="MIT OpenCourseWare terms, non-commercial",
    ),
    Benchmark(
        name="gaokao2023en", path="MARIO-Math-Reasoning/Gaokao2023-Math-En", split="train",
        source="385 translated exam questions", licence="not stated",
    ),
    Benchmark(
        name="olympiadbench", path="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train",
        answer_column="final_answer", answer_format="dollars", answer_list="all",
        source="OpenBMB/OlympiadBench, 675 questions", licence="MIT",
    ),
    Benchmark(
        name="college_math", path="realtreetune/college_math",
        source="2818 questions of nine textbooks", licence="per question: CC BY, CC BY-NC-SA, GFDL and others",
    ),
    Benchmark(
        name="aime24", path="math-ai/aime24", question_column="problem", answer_column="solution",
        answer_format="boxed", num_samples=32, temperature=1.0,
        source="AIME 2024, 30 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="aime25", path="math-ai/aime25", question_column="problem", num_samples=32, temperature=1.0,
        source="AIME 2025, 30 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="amc23", path="math-ai/amc23", num_samples=8, temperature=1.0,
        source="AMC 12 2023, 40 questions", licence="questions © MAA",
    ),
    Benchmark(
        name="svamp", path="ChilleD/SVAMP", split="train+test", question_column="Body+Question",
        answer_column="Answer", max_tokens=1024, source="arkilpatel/SVAMP, 1000 questions", licence="MIT",
    ),
    Benchmark(
        name="asdiv", path="EleutherAI/asdiv", split="validation", question_column="body+question",
        answer_format="unit", max_tokens=1024, source="chaochun/nlu-asdiv-dataset", licence="CC BY-NC 4.0",
    ),
    Benchmark(  # other harnesses use 2065 questions that are not on the hub: read those from a file
        name="mawps", path="MU-NLPC/Calc-mawps", answer_column="result", max_tokens=1024,
        source="MAWPS as filtered by Calc-X", licence="MIT",
    ),
    Benchmark(
        name="cnn_dailymail", path="abisee/cnn_dailymail", config="3.0.0", question_column="article",
        answer_column="highlights", template="summarize", reward="rouge", metric="score", max_tokens=256,
        source="CNN/DailyMail 3.0.0, 11490 articles", licence="Apache-2.0",
    ),
    Benchmark(
        name="xsum", path="EdinburghNLP/xsum", question_column="document", answer_column="summary",
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


def register_benchmarks(entries: Sequence[Benchmark], key: str = "benchmarks") -> None:
    """Make benchmarks known by their names. Raises `UserError` for a name that another entry or a suite has."""
    for number, entry in enumerate(entries):
        find_template(entry.template, f"{key}[{number}].template")
        if BENCHMARKS.get(entry.name, entry) != entry or entry.name in SUITES:
            raise UserError(
                f"{key}[{number}].name is {entry.name!r}, which is already a benchmark or suite: choose another name."
            )
        BENCHMARKS[entry.name] = entry


def find_benchmarks(names: Iterable[str], key: str = "benchmark") -> list[Benchmark]:
    """Return the entries of benchmark and suite names, suites as their members, each once, in the order given.

    Raises `UserError` with the configuration `key` that lists the known names.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        for member in SUITES.get(name, (name,)):
            if member not in BENCHMARKS:
                close = get_close_matches(name, [*BENCHMARKS, *SUITES], n=1)
                guess = f" (did you mean {close[0]!r}?)" if close else ""
                raise UserError(
                    f"{key} is {name!r}, which is not a benchmark or suite{guess}: "
                    f"use {', '.join(BENCHMARKS)}, or a suite: {', '.join(SUITES)}."
                )
            found[member] = BENCHMARKS[member]
    return list(found.values())


def in_registry_order(names: Iterable[str]) -> list[str]:
    """Return names as `BENCHMARKS` lists them, unknown ones last: the order of rows and columns in tables."""
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    return sorted(names, key=lambda name: places.get(name, len(places)))
