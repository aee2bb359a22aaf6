"""Every benchmark reads the hub's columns and the local layout; a bad row is an error that names its line."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset
from pyarrow import parquet

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, MATH8, SUITES, Benchmark, find_benchmarks
from lambda_grpo_pl.data.prompts import PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.data.templates import TEMPLATES

DATA = Path(__file__).parents[1] / "data" / "benchmarks"
MARBLES = replace(BENCHMARKS["gsm8k"], name="marbles")

# One row of each answer notation as the hub stores it, with the question and gold it must become.
HUB_ROWS = {
    "gsm8k": ({"question": "2+3?", "answer": "We add.\n2+3=<<2+3=5>>5\n#### 5"}, "2+3?", "5"),
    "math": (
        {"problem": "Half of 1?", "solution": r"Not \boxed{2} but $\boxed{\frac{1}{2}}$."},
        "Half of 1?",
        r"\frac{1}{2}",
    ),
    "math500": ({"problem": "Half of 1?", "solution": "long", "answer": r"\frac{1}{2}"}, "Half of 1?", r"\frac{1}{2}"),
    "aime24": ({"id": 60, "problem": "7+7?", "solution": r"\boxed{14}"}, "7+7?", "14"),
    "olympiadbench": ({"question": "Roots?", "final_answer": ["$1$,$2$", r"\$3"]}, "Roots?", r"1,2, \$3"),
    "svamp": ({"Body": "Two hens.", "Question": "Legs?", "Answer": 4.0}, "Two hens. Legs?", "4"),
    "asdiv": ({"body": "One hen.", "question": "Legs?", "answer": "2 (legs)"}, "One hen. Legs?", "2"),
    "mawps": ({"question": "1.5+1?", "result": "2.5", "result_float": 2.5}, "1.5+1?", "2.5"),
    "wmt14_de_en": ({"translation": {"de": "Hallo.", "en": "Hello."}}, "Hallo.", "Hello."),
    "wmt14_en_de": ({"translation": {"de": "Hallo.", "en": "Hello."}}, "Hello.", "Hallo."),
    "flores_de_en": ({"de-en": {"de": "Hallo.", "en": "Hello."}}, "Hallo.", "Hello."),
    "xsum": ({"document": "It rained all day.", "summary": "Rain."}, "It rained all day.", "Rain."),
    "cnn_dailymail": ({"article": "It rained all day.", "highlights": "Rain."}, "It rained all day.", "Rain."),
}


@pytest.fixture(autouse=True)
def _marbles(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "marbles", MARBLES)


def load_benchmark(entry, path=None, limit=None):
    """Questions of a registered benchmark as an evaluation reads them, without the prompt."""
    source = PromptSource(benchmark=entry.name, path=path and str(path), limit=limit)
    rules = PromptRules(max_prompt_tokens=4096).without_skipping()
    rows = PromptReader(source, rules, character_tokenizer(), "data.val[0]").read(unique_ids=True)
    return [{name: value for name, value in row.example.items() if name != "prompt"} for row in rows]


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", HUB_ROWS)
def test_hub_columns_become_question_and_gold(tmp_path, name):
    row, question, answer = HUB_ROWS[name]
    (example,) = load_benchmark(BENCHMARKS[name], write(tmp_path / "test.jsonl", row))
    assert (example["question"], example["answer"]) == (question, answer)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_entry_reads_the_local_layout_without_conversion(tmp_path, name):
    row = {"id": "a", "question": "What?", "answer": "9 (x) $y$"}
    (example,) = load_benchmark(BENCHMARKS[name], write(tmp_path / "test.jsonl", row))
    assert example["question"] == "What?"
    assert example["id"] == "a"
    assert example["answer"] == "9 (x) $y$"


def test_local_folder_is_searched_by_name_and_extras_are_kept():
    examples = load_benchmark(MARBLES, DATA)
    assert [example["index"] for example in examples] == [0, 1, 2, 3, 4]
    assert examples[2]["answer"] == "2,080"
    assert examples[0]["subject"] == "counting"
    assert {example["benchmark"] for example in examples} == {"marbles"}
    assert load_benchmark(MARBLES, DATA / "marbles", limit=2) == examples[:2]


def test_parquet_equals_jsonl(tmp_path):
    rows = [json.loads(line) for line in (DATA / "marbles" / "test.jsonl").read_text().splitlines()]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    assert load_benchmark(MARBLES, tmp_path / "test.parquet") == load_benchmark(MARBLES, DATA)


def test_hub_data_set_is_read_by_id_config_and_split(monkeypatch):
    asked = []

    def offline(hub_id, config, split):
        asked.append((hub_id, config, split))
        return Dataset.from_list([HUB_ROWS["gsm8k"][0], {"question": "1+1?", "answer": "#### 2"}])

    monkeypatch.setattr("datasets.load_dataset", offline)
    examples = load_benchmark(BENCHMARKS["gsm8k"])
    assert asked == [("openai/gsm8k", "main", "test")]
    assert [(example["id"], example["answer"]) for example in examples] == [
        ("gsm8k-000000", "5"),
        ("gsm8k-000001", "2"),
    ]


GOOD = {"id": "a", "question": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, "{oops\n"], r"test.jsonl:2: not valid JSON"),
        ([GOOD, "[1]\n"], r"test.jsonl:2: a JSON list"),
        (
            [GOOD, "\n", {"id": "b", "question": "1?"}],
            r"test.jsonl:3: no column 'answer', only id, question.*report that with the score",
        ),
        ([GOOD, {**GOOD, "id": "b", "answer": " "}], r"test.jsonl:2: column 'answer' is empty"),
        ([{**GOOD, "question": None}], r"test.jsonl:1: column 'question' is empty"),
        ([GOOD, GOOD], r"test.jsonl: 2 rows have the id 'a'; give each question its own"),
        ([{**GOOD, "answer": "We add.\nThat is 2"}], r"test.jsonl:1: the solution has no '####'"),
        ([], r"it is empty"),
    ],
)
def test_bad_rows_name_file_line_and_cure(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(BENCHMARKS["gsm8k"], write(tmp_path / "test.jsonl", *rows))


@pytest.mark.parametrize("solution", ["The answer is 5.", r"\boxed{5", r"Open \boxed{\frac{1}{2}"])
def test_a_solution_without_a_closed_box_is_refused(tmp_path, solution):
    with pytest.raises(ValueError, match="no closed"):
        load_benchmark(BENCHMARKS["math"], write(tmp_path / "test.jsonl", {"problem": "?", "solution": solution}))


def test_missing_file_lists_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"data.val\[0\].path is .* gsm8k/test.jsonl or test.jsonl"):
        load_benchmark(BENCHMARKS["gsm8k"], tmp_path)


def test_entries_are_complete():
    for entry in BENCHMARKS.values():
        assert entry.source
        assert entry.licence
        assert entry.template in TEMPLATES
        assert "/" in entry.path
    assert len(MATH8) == 8
    assert all(set(members) <= set(BENCHMARKS) for members in SUITES.values())


def test_suites_are_spelled_out_once_and_in_order():
    names = [entry.name for entry in find_benchmarks(["aime25", "math8", "gsm8k"])]
    assert names == ["aime25", *MATH8]
    with pytest.raises(ValueError, match=r"math9', which is not a benchmark .*mean 'math'.*: use gsm8k, .*math8"):
        find_benchmarks(["math9"])


def test_greedy_with_several_samples_and_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="identical samples"):
        Benchmark(name="x", path="a/b", num_samples=4)
    with pytest.raises(ValueError, match="use bare, hashes"):
        replace(BENCHMARKS["gsm8k"], answer_format="box")
