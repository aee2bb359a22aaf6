"""What users may give as data: sources, paths, rows in memory, benchmarks of their own; and the tokenizer."""

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, Benchmark
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.sources import PromptSource, as_source, as_sources
from lambda_grpo_pl.data.templates import Template
from lambda_grpo_pl.data.tokenizer import load_tokenizer
from lambda_grpo_pl.errors import UserError

ROWS = [{"question": f"{n}+1=", "answer": n + 1} for n in range(6)]


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name / "test.jsonl" for name in ("mawps", "gsm8k")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return [str(path) for path in paths]


def attach(data: PromptDataModule) -> PromptDataModule:
    class Place:
        global_rank, world_size, max_steps = 0, 1, 5

    data.trainer = Place()
    data.setup("fit")
    return data


@pytest.mark.parametrize("rows", [ROWS, Dataset.from_list(ROWS)], ids=["list", "dataset"])
def test_rows_in_memory_train_and_validate(tokenizer_path: str, rows) -> None:
    data = attach(PromptDataModule(tokenizer_path, train=rows, val=rows, batch_size=3))
    seen = {each["answer"] for index in (0, 1) for each in data.train_batch(index).prompts.examples}
    assert seen == {str(n + 1) for n in range(6)}
    assert data.val_names == ["rows"]
    columns = PromptSource(rows=[{"problem": "1?", "gold": 2}], question_column="problem", answer_column="gold")
    (example,) = attach(PromptDataModule(tokenizer_path, columns, rows, batch_size=1)).train_batch(0).prompts.examples
    assert (example["question"], example["answer"]) == ("1?", "2")


def test_a_bad_row_in_memory_is_named(tokenizer_path: str) -> None:
    with pytest.raises(UserError, match=r"data\.train, row 1: column 'answer' holds the truth value True"):
        attach(PromptDataModule(tokenizer_path, train=[ROWS[0], {"question": "?", "answer": True}], val=ROWS))
    with pytest.raises(UserError, match=r"data\.train takes one source, but 0 were given"):
        PromptDataModule(tokenizer_path, train=[])
    with pytest.raises(UserError, match=r"data\.train, row 1: a int, not a mapping"):
        attach(PromptDataModule(tokenizer_path, train=[ROWS[0], 3], val=ROWS))


def test_val_takes_a_file_a_source_or_a_list(files: list[str]) -> None:
    assert [source.path for source in as_sources(files[0], "data.val")] == files[:1]
    named = [PromptSource(path=files[0], name="mawps"), files[1]]
    assert [source.name for source in as_sources(named, "data.val")] == ["mawps", "test"]
    assert as_sources(PromptSource(split="test"), "data.val")[0].name == "arithmetic"


def test_sets_of_one_name_are_refused_with_the_key_that_tells_them_apart(files: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.val has 2 sets of the name 'test'.*data\.val\[…\]\.name"):
        as_sources(list(files), "data.val")


def test_a_wrong_template_benchmark_or_source_names_its_key(files: list[str]) -> None:
    with pytest.raises(UserError, match=r"^data\.val\[1\]\.template is 'plian', which is not a template"):
        as_sources([files[0], PromptSource(path="b.jsonl", template="plian")], "data.val")
    with pytest.raises(UserError, match=r"^data\.val\[0\]\.benchmark is 'gsm8', .*did you mean 'gsm8k'"):
        as_sources([PromptSource(benchmark="gsm8")], "data.val")
    with pytest.raises(
        UserError,
        match=r"pth is not a key .*did you mean path.*use the keys path, name.*limit\.",
    ):
        as_sources("[{pth: a}]", "data.val")
    with pytest.raises(UserError, match=r"data\.train takes one source, but 4 were given"):
        as_source(PromptSource(benchmark="competition"), "data.train")
    with pytest.raises(UserError, match=r"the suite 'competition' has several sets"):
        as_sources(PromptSource(benchmark="competition", name="mine"), "data.val")


def test_a_template_written_as_text_can_have_stop_strings(tokenizer_path: str) -> None:
    source = PromptSource(rows=ROWS, template=Template(text="Q {question} A", stop=("\nQ",)))
    data = attach(PromptDataModule(tokenizer_path, source, val=ROWS, batch_size=2))
    assert data.stops == ("\nQ",)
    assert data.train_batch(0).prompts.examples[0]["prompt"].startswith("Q ")
    assert source.prompt_template.label == "Q {question} A"


def test_a_benchmark_of_ones_own_is_one_entry(tokenizer_path: str, files: list[str]) -> None:
    entry = Benchmark(name="tides", path=files[0], template="none", max_tokens=64)
    try:
        data = PromptDataModule(tokenizer_path, ROWS, [PromptSource(benchmark="tides")], benchmarks=[entry])
        attach(data)
        assert data.val_dataloader()[0].rows[2].example["id"] == "tides-000002"
        with pytest.raises(UserError, match=r"data\.benchmarks\[0\]\.name is 'gsm8k', which is already"):
            PromptDataModule(tokenizer_path, benchmarks=[Benchmark(name="gsm8k", path="a/b")])
    finally:
        BENCHMARKS.pop("tides", None)


def test_fewer_rows_than_a_batch_are_warned_about_once(tokenizer_path: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        attach(PromptDataModule(tokenizer_path, train=ROWS, val=ROWS, batch_size=6))
        assert "fewer than" not in caplog.text
        attach(PromptDataModule(tokenizer_path, train=ROWS, val=ROWS, batch_size=7))
    assert caplog.text.count("data.train has 6 prompts, fewer than data.batch_size (7)") == 1


def test_repeated_ids_would_mix_the_records_of_an_evaluation(tokenizer_path: str) -> None:
    rows = [{"id": "a", **row} for row in ROWS]
    with pytest.raises(UserError, match="the rows: 6 rows have the id 'a'; give each question its own"):
        attach(PromptDataModule(tokenizer_path, train=ROWS, val=rows))


def test_a_missing_pad_token_falls_back_to_the_end_of_sequence(tmp_path, caplog) -> None:
    tokenizer = character_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load_tokenizer(str(tmp_path)).pad_token == "<eos>"
    assert "has no pad token: using '<eos>' for padding" in caplog.text
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        load_tokenizer(str(tmp_path / "endless"))


def test_a_tokenizer_that_cannot_be_loaded_names_the_model(tmp_path) -> None:
    with pytest.raises(
        UserError,
        match=rf"model\.policy\.path is {tmp_path}, whose tokenizer could not be loaded.*Check",
    ):
        load_tokenizer(str(tmp_path))


def test_revision_and_trust_reach_the_tokenizer(monkeypatch) -> None:
    asked = {}

    def load(path, **options):
        asked.update(options, path=path)
        return character_tokenizer()

    monkeypatch.setattr("lambda_grpo_pl.data.tokenizer.AutoTokenizer.from_pretrained", load)
    assert PromptDataModule("me/model", revision="v2", trust_remote_code=True).tokenizer.eos_token == "<eos>"
    assert asked == {"path": "me/model", "revision": "v2", "trust_remote_code": True}


def test_a_hub_data_set_that_cannot_be_loaded_names_key_and_id(tokenizer_path: str, monkeypatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'me/sums' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"data\.train\.path is me/sums .*could not be loaded.*data\.train\.split"):
        attach(PromptDataModule(tokenizer_path, PromptSource(path="me/sums"), ROWS))


def test_own_prompts_are_not_evaluated_on_a_built_in_task(tokenizer_path: str) -> None:
    """Sums say nothing about them; a built-in task has a test split."""
    assert PromptDataModule(tokenizer_path, train=ROWS).val_sources == []
    for path, name in ((None, "arithmetic"), ("builtin:word-problems", "word-problems")):
        (source,) = PromptDataModule(tokenizer_path, train=path).val_sources
        assert (source.name, source.split) == (name, "test")
