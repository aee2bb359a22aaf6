"""Data as people have it: each small synthetic file has the shape of a public data set or a common export."""

import logging
from pathlib import Path

import pytest
import yaml

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.data.prompts import EncodedPrompt, PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.errors import UserError

SHAPES = Path(__file__).parent / "shapes"
CONFIGS = Path(__file__).parents[2] / "configs" / "data"
QUESTIONS = ["What is 2+3?", "What is 10*10?", "What is 7-9?"]
DAPO = [f"Solve it. Put the last line as Answer: $Answer. {question}" for question in QUESTIONS]
GOLDS = ["5", "100", "-2"]
PLAIN = (QUESTIONS, GOLDS)
PROBLEM = {"question_column": "problem"}
VERL = {"question_column": "prompt", "answer_column": "reward_model.ground_truth"}
TOKENIZER = character_tokenizer()
TOKENIZER.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def read(name: str, rules: PromptRules | None = None, **source: object) -> list[EncodedPrompt]:
    path = str(SHAPES / name)
    return PromptReader(PromptSource(path=path, **source), rules or PromptRules(), TOKENIZER).read()


def column(rows: list[EncodedPrompt], name: str) -> list[str]:
    return [row.example[name] for row in rows]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("dapo_verl.parquet", VERL, (DAPO, GOLDS)),
        ("dapo_verl.jsonl", VERL, (DAPO, GOLDS)),
        ("dapo_verl.parquet", {**VERL, "question_column": "prompt.0.content"}, (DAPO, GOLDS)),
        ("simplerl_zoo.parquet", {}, PLAIN),
        ("simplerl_zoo.parquet", VERL, PLAIN),
        ("openr1.parquet", PROBLEM, PLAIN),
        ("bigmath.jsonl", PROBLEM, PLAIN),
        ("numina.jsonl", {**PROBLEM, "answer_column": "solution", "answer_format": "boxed"}, PLAIN),
        ("math_lighteval.jsonl", {**PROBLEM, "answer_column": "solution", "answer_format": "boxed"}, PLAIN),
        ("math_boxspace.jsonl", {**PROBLEM, "answer_column": "solution", "answer_format": "boxed"}, PLAIN),
        ("gsm8k.jsonl", {"answer_format": "hashes"}, (["Tom has 2 bags of 3.", "Cost?", "Neg?"], ["6", "1,200", "-5"])),
        ("list_gold.jsonl", {"answer_list": "all"}, (QUESTIONS, ["5", "100, 1e2", "-2"])),
        ("list_gold.jsonl", {"answer_list": "any"}, PLAIN),
        ("dict_gold.jsonl", {"answer_column": "answer.value"}, PLAIN),
        ("float_gold.jsonl", {}, (QUESTIONS, ["5", "0.1", "145"])),
        ("float32.parquet", {}, (QUESTIONS, ["0.1", "33.333332", "-2"])),
        ("decimal.parquet", {}, (QUESTIONS, ["5.00", "100.10", "-2.00"])),
        ("dict_int.parquet", {}, PLAIN),
        ("nested.jsonl", {"question_column": "data.q.text", "answer_column": "data.a.value"}, PLAIN),
        ("array.json", {}, PLAIN),
        ("pretty.jsonl", {}, (QUESTIONS[:1], GOLDS[:1])),
        ("data.csv", {}, PLAIN),
        ("data.jsonl.gz", {}, PLAIN),
        ("bom.jsonl", {}, PLAIN),
        ("crlf.jsonl", {}, PLAIN),
        ("reserved_cols.jsonl", {}, PLAIN),
        ("dupe_ids.jsonl", {}, PLAIN),
        ("nul.jsonl", {}, (["a\0b", "line\u2028sep"], ["5", "5"])),
        ("hugeint.jsonl", {}, (QUESTIONS, ["1" + 60 * "0", "9223372036854775808", "5"])),
        ("aime_int.jsonl", {"question_column": "Problem", "answer_column": "Answer"}, (QUESTIONS, ["25", "204", "73"])),
        ("aime_str.jsonl", PROBLEM, (QUESTIONS, ["025", "204", "073"])),
        ("upper_cols.jsonl", {"question_column": "Question", "answer_column": "Answer"}, PLAIN),
        ("shards/*.parquet", {}, (2 * QUESTIONS, 2 * GOLDS)),
        ("shards", {}, (2 * QUESTIONS, 2 * GOLDS)),
    ],
)
def test_a_shape_loads(name: str, source: dict, expected: tuple) -> None:
    rows = read(name, **source)
    for wanted, got in zip(expected, (column(rows, "question"), column(rows, "answer")), strict=True):
        assert got == wanted
    assert all(isinstance(value, str) and value for row in rows for value in (row.example["answer"], row.example["id"]))


BOXED = {**PROBLEM, "answer_column": "solution", "answer_format": "boxed"}


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("openr1.parquet", {}, r"openr1.parquet, row 1: no column 'question', .*did you mean 'problem'"),
        ("upper_cols.jsonl", {}, r":1: no column 'question', .*did you mean 'Question'"),
        (
            "nested.jsonl",
            {"question_column": "q.text"},
            r"no column 'q.text', only data.q.text, .*did you mean 'data.q.text'",
        ),
        ("gsm8k.jsonl", {}, r":1: the gold is a worked solution .*#### 6'.*set answer_format to hashes"),
        ("numina.jsonl", {**PROBLEM, "answer_column": "solution"}, r":1: .*set answer_format to boxed"),
        ("numina.jsonl", {**BOXED, "question_column": "answer"}, r":1: no column 'answer', only"),
        ("float_inf.jsonl", {}, r":2: column 'answer' holds inf"),
        ("nan.parquet", {}, r"nan.parquet, row 2: column 'answer' holds nan"),
        ("list_gold.jsonl", {}, r":2: column 'answer' holds 2 answers: set answer_list to any .*or all"),
        ("large_string.parquet", {}, r"holds 2 answers: set answer_list"),
        ("olympiad_list.jsonl", {"answer_column": "final_answer", "answer_format": "dollars"}, r":3: .*empty list"),
        ("bool_gold.jsonl", {}, r":1: column 'answer' holds the truth value True"),
        ("dict_gold.jsonl", {}, r":1: column 'answer' holds fields, not a text: name one of answer.value, answer.unit"),
        ("binary.parquet", {}, r"binary.parquet, row 1: column 'answer' holds bytes"),
        ("surrogate.jsonl", {}, r":1: column 'question' holds half of a surrogate pair"),
        ("empty_question.jsonl", {}, r":1: column 'question' is empty"),
        ("latin1.jsonl", {}, r"latin1.jsonl:1: not UTF-8 \(byte 0xfc at column 20\): save it as UTF-8"),
        ("utf16.jsonl", {}, r"utf16.jsonl:1: the file is UTF-16: save it as UTF-8"),
        ("none/*.jsonl", {}, r"data.train.path is .*no file matches"),
    ],
)
def test_a_shape_is_refused_with_file_row_column_and_remedy(name: str, source: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(name, **source)


def test_messages_are_read_by_the_chat_template_system_message_included() -> None:
    rows = read("simplerl_zoo.parquet", **VERL)
    assert rows[0].example["prompt"] == "[system]Be brief.[user]What is 2+3?"
    assert TOKENIZER.decode(rows[0].ids) == rows[0].example["prompt"]
    with pytest.raises(UserError, match=r"chat messages, which template 'qwen_boxed' cannot wrap.*prompt\.0\.content"):
        read("simplerl_zoo.parquet", template="qwen_boxed", **VERL)
    assert not PromptSource(path="x.jsonl").prompt_template.chat


def test_messages_that_end_with_the_answer_are_a_bad_row() -> None:
    with pytest.raises(UserError, match="the prompt would contain an answer"):
        read("openr1.parquet", question_column="messages")


def test_any_of_several_golds_travels_with_the_row() -> None:
    assert column(read("list_gold.jsonl", answer_list="any"), "answers")[1] == ["100", "1e2"]


def test_golds_that_say_there_is_no_answer_are_counted(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        read("numina_proof.jsonl", **PROBLEM)
    assert "2 of 3 golds say that there is no answer ('proof' 1×, 'notfound' 1×)" in caplog.text


def test_bad_golds_are_skipped_counted_and_named(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        rows = read("float_inf.jsonl", PromptRules(on_bad_row="skip"))
    assert column(rows, "answer") == ["5"]
    assert "2 of 3 rows skipped" in caplog.text
    assert "float_inf.jsonl:3" in caplog.text


def test_a_folder_gives_the_files_of_its_split() -> None:
    with pytest.raises(UserError, match=r"a folder without validation\.jsonl"):
        read("shards", split="validation")


PRESETS = {
    "dapo_math_verl": "dapo_verl.parquet",
    "simplerl_zoo": "simplerl_zoo.parquet",
    "openr1_math": "openr1.parquet",
    "numina_math": "numina.jsonl",
    "big_math": "bigmath.jsonl",
    "math": "math_boxspace.jsonl",
    "gsm8k": "gsm8k.jsonl",
    "deepscaler": "numina_proof.jsonl",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_its_data_sets_columns(preset: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())["data"]
    columns = {name: value for name, value in config["train"].items() if name.endswith(("_column", "_format"))}
    assert len(read(PRESETS[preset], **columns)) == 3


def test_an_unknown_format_lists_the_known_ones(tmp_path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"unknown format: use \.jsonl, .*\.parquet"):
        PromptReader(PromptSource(path=str(tmp_path / "rows.xlsx")), PromptRules(), TOKENIZER).read()


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR1"), ("a.jsonl.gz", b"\x1f\x8b\x08torn")])
def test_a_damaged_file_is_named(tmp_path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} (is not a Parquet file|cannot be read)"):
        PromptReader(PromptSource(path=str(tmp_path / name)), PromptRules(), TOKENIZER).read()


def test_csv_rows_with_too_many_fields_and_tabs(tmp_path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"1,\n2",3\n4,5,6\n')
    rules = PromptRules(on_bad_row="skip")
    reader = PromptReader(PromptSource(path=str(tmp_path / "a.csv")), rules, TOKENIZER)
    assert column(reader.read(), "question") == ["1,\n2"]
    assert reader.skipped == [f"{tmp_path}/a.csv:4: more fields than the header has columns"]
    (tmp_path / "a.tsv").write_text("question\tanswer\n1,2\t3\n")
    assert column(PromptReader(PromptSource(path=str(tmp_path / "a.tsv")), rules, TOKENIZER).read(), "answer") == ["3"]
