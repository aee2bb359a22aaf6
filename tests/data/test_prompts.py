"""Reading rows from files, the built-in task and streams: what is used, what is left out, what ends the run."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.data.prompts import PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.data.streams import PromptStream, PromptTable

TOKENIZER = character_tokenizer()
ROWS = [{"question": f"What is {n} and one?", "answer": str(n + 1), "topic": "sums"} for n in range(7)]


def write(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def reader(path: str, rules: PromptRules | None = None, **source: object) -> PromptReader:
    return PromptReader(PromptSource(path=path, **source), rules or PromptRules(), TOKENIZER)


def test_jsonl_and_parquet_give_the_same_prompts(tmp_path) -> None:
    lines = reader(write(tmp_path / "sums.jsonl", ROWS)).read()
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "sums.parquet")
    rows = reader(str(tmp_path / "sums.parquet")).read()
    assert [row[:2] for row in rows] == [row[:2] for row in lines]
    assert [row.where for row in (lines[2], rows[2])] == [
        f"{tmp_path}/sums.jsonl:3",
        f"{tmp_path}/sums.parquet, row 3",
    ]
    assert lines[2].example == {
        **ROWS[2],
        "id": "sums-000002",
        "index": 2,
        "prompt": "Question: What is 2 and one?\nAnswer:",
    }
    assert TOKENIZER.decode(lines[2].ids) == lines[2].example["prompt"]


def test_columns_template_and_answer_format_are_the_sources(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", [{"problem": "2+2?", "solution": "It is 4.\n#### 4", "id": "x"}])
    source = {"question_column": "problem", "answer_column": "solution", "answer_format": "hashes"}
    (row,) = reader(path, template="<{question}>", **source).read()
    assert (row.example["prompt"], row.example["answer"], row.example["id"]) == ("<2+2?>", "4", "x")


def test_builtin_task_and_limit() -> None:
    rows = reader("builtin:arithmetic", split="test", limit=9).read()
    assert len(rows) == 9
    assert rows[0].example["prompt"] == rows[0].example["question"]


def test_benchmark_brings_its_own_columns_and_template(tmp_path) -> None:
    path = write(tmp_path / "test.jsonl", [{"question": "How many?", "answer": "#### 5"}])
    source = PromptSource(benchmark="gsm8k", path=path)
    (row,) = PromptReader(source, PromptRules(), TOKENIZER).read()
    assert (row.example["answer"], row.example["benchmark"], row.example["index"]) == ("5", "gsm8k", 0)


def test_missing_column_names_what_is_there_and_what_to_set(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", [{"problem": "2+2?", "gold": 4}])
    with pytest.raises(
        ValueError,
        match=r"a\.jsonl:1: no column 'question', only problem, gold .did you mean 'problem'.*train.question_column",
    ):
        reader(path).read()


def test_empty_file_and_missing_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="it is empty"):
        reader(write(tmp_path / "empty.jsonl", [])).read()
    with pytest.raises(ValueError, match=r"data.train.path is .*none\.jsonl, but there is no file"):
        reader(str(tmp_path / "none.jsonl")).read()


BAD = [ROWS[0], "{not json", ROWS[1], "[1]", {"question": "", "answer": "3"}, {"question": "no gold"}, ROWS[2]]


def test_bad_rows_are_skipped_counted_and_named_by_line(tmp_path, caplog) -> None:
    path = write(tmp_path / "a.jsonl", BAD)
    source = reader(path, PromptRules(on_bad_row="skip"))
    with caplog.at_level(logging.WARNING):
        rows = source.read()
    assert [row.example["answer"] for row in rows] == ["1", "2", "3"]
    assert [entry.split(": ")[0] for entry in source.skipped] == [f"{path}:{line}" for line in (2, 4, 5, 6)]
    assert "4 of 7 rows skipped" in caplog.text


@pytest.mark.parametrize("line", [2, 4, 5, 6])
def test_a_bad_row_ends_the_run_with_its_line_where_so_configured(tmp_path, line: int) -> None:
    rows = ["" for _ in range(line - 1)] + [BAD[line - 1]]
    with pytest.raises(ValueError, match=rf"a\.jsonl:{line}: .*Fix the row"):
        reader(write(tmp_path / "a.jsonl", rows)).read()


def test_long_prompts_are_skipped_truncated_or_refused(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"question": "x" * 50, "answer": "1"}])
    limit = 40
    skip, truncate, error = (
        reader(path, PromptRules(max_prompt_tokens=limit, on_long_prompt=rule))
        for rule in ("skip", "truncate", "error")
    )
    assert len(skip.read()) == 1
    assert skip.skipped == [f"{path}:2: 68 tokens"]
    long = truncate.read()[1]
    assert len(long.ids) == limit
    assert long.example["prompt"] == ("Question: " + "x" * 50 + "\nAnswer:")[-limit:]
    with pytest.raises(ValueError, match=r":2: the prompt has 68 tokens, .* 40: raise it"):
        error.read()


def test_leaving_every_row_out_is_an_error_that_shows_the_first(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"all 7 rows were skipped; the first: .*:1: "):
        reader(path, PromptRules(max_prompt_tokens=3)).read()


def test_test_questions_are_never_left_out() -> None:
    assert PromptRules(on_bad_row="skip").without_skipping() == PromptRules(on_bad_row="error", on_long_prompt="error")
    assert PromptRules(on_long_prompt="truncate").without_skipping().on_long_prompt == "truncate"


def answers(rows: list) -> list[str]:
    return [row.example["answer"] for row in rows]


def sequences(tmp_path: Path, seed: int, shuffle: bool = True) -> list:
    source = reader(write(tmp_path / "sums.jsonl", ROWS), streaming=True)
    return [PromptTable(source.read(), seed, "train", shuffle), PromptStream(source, seed, "train", shuffle)]


@pytest.mark.parametrize("kind", [0, 1], ids=["table", "stream"])
def test_each_epoch_is_a_new_permutation_decided_by_the_seed(tmp_path, kind: int) -> None:
    rows = answers(sequences(tmp_path, seed=0)[kind].take(0, 21))
    epochs = [rows[:7], rows[7:14], rows[14:]]
    assert all(sorted(epoch) == sorted(answers_of := [row["answer"] for row in ROWS]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, answers_of]}) == 4
    assert answers(sequences(tmp_path, seed=0)[kind].take(0, 21)) == rows
    assert answers(sequences(tmp_path, seed=1)[kind].take(0, 21)) != rows


@pytest.mark.parametrize("kind", [0, 1], ids=["table", "stream"])
def test_any_stretch_is_what_reading_through_gives(tmp_path, kind: int) -> None:
    through = answers(sequences(tmp_path, seed=3)[kind].take(0, 30))
    jumping = sequences(tmp_path, seed=3)[kind]
    for start, count in ((12, 5), (17, 3), (2, 9), (25, 5)):
        assert answers(jumping.take(start, count)) == through[start : start + count]


@pytest.mark.parametrize("kind", [0, 1], ids=["table", "stream"])
def test_unshuffled_rows_keep_their_order(tmp_path, kind: int) -> None:
    assert answers(sequences(tmp_path, 0, shuffle=False)[kind].take(5, 4)) == ["6", "7", "1", "2"]


def test_an_empty_stream_ends_instead_of_turning_forever(tmp_path) -> None:
    source = reader(write(tmp_path / "a.jsonl", ["nonsense"]), PromptRules(on_bad_row="skip"), streaming=True)
    with pytest.raises(ValueError, match="were skipped"):
        PromptStream(source, 0, "train", shuffle=False).take(0, 1)
