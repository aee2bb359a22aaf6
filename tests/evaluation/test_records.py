"""Records survive a crash, are never overwritten, and say under which setup they were made."""

import json
from dataclasses import asdict, replace

import pytest
from pyarrow import parquet

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import (
    EvaluationSetup,
    QuestionRecord,
    merge,
    read_records,
    read_setup,
    write_part,
)
from lambda_grpo_pl.evaluation.scores import QuestionTable

SETUP = EvaluationSetup(
    benchmark="marbles", template="plain", reward="math", num_samples=2, temperature=1.0, stop=("\n",)
)

NEW_FIELDS = {"engine", "engine_version", "dtype", "reward_reads"}


def record(index, right=True):
    return QuestionRecord(
        id=f"marbles-{index}",
        index=index,
        answer="7",
        prompt="Question: 3+4?\nAnswer:",
        completions=["7", "λ? 8"],
        extracted=["7", None],
        correct=[right, False],
        scores=[float(right), 0.1],
        status=["ok", "no_answer"],
        lengths=[2, 4],
        truncated=[False, True],
    )


def test_records_come_back_as_written(tmp_path):
    write_part(tmp_path, SETUP, 0, [record(0)])
    assert read_records(tmp_path) == [record(0)]
    assert read_setup(tmp_path) == SETUP


def test_a_torn_part_is_ignored(tmp_path):
    write_part(tmp_path, SETUP, 0, [record(3), record(1)])
    (tmp_path / "part-00000-000001.unfinished").write_bytes(b"PAR1 torn")
    write_part(tmp_path, SETUP, 0, [record(0)])
    assert [each.index for each in read_records(tmp_path)] == [0, 1, 3]


def test_a_removed_part_never_makes_another_be_overwritten(tmp_path):
    for index in range(3):
        write_part(tmp_path, SETUP, 0, [record(index)])
    (tmp_path / "part-00000-000000.parquet").unlink()
    write_part(tmp_path, SETUP, 0, [record(0)])
    assert [each.index for each in read_records(tmp_path)] == [0, 1, 2]


def test_ranks_write_side_by_side_and_merge_into_one_sorted_file(tmp_path):
    for rank, indices in enumerate([(0, 2, 4), (1, 3, 0)]):
        for index in indices:
            write_part(tmp_path, SETUP, rank, [record(index)])
    before = read_records(tmp_path)
    path = merge(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] == ["records.parquet"]
    assert read_records(tmp_path) == before
    assert [each.index for each in before] == [0, 1, 2, 3, 4]
    assert merge(tmp_path) == path


def test_the_merged_file_decides_what_the_folder_is(tmp_path):
    """Parts written later may name an engine that the older records do not."""
    write_part(tmp_path, SETUP, 0, [record(0)])
    merge(tmp_path)
    write_part(tmp_path, replace(SETUP, engine="vllm"), 0, [record(0, right=False), record(1)])
    merge(tmp_path)
    assert read_setup(tmp_path).engine == ""
    assert [each.correct[0] for each in read_records(tmp_path)] == [True, True]


def test_empty_folder(tmp_path):
    for read in (read_records, read_setup, merge):
        with pytest.raises(UserError, match="holds no records"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 1}, False),
        ({"engine_version": "0.33"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"engine": "", "dtype": ""}, True),  # not recorded
        ({"reward_reads": "the last number"}, True),
        ({"policy": "step 2"}, False),
        ({"top_p": 0.9}, False),
        ({"temperature": 0.5}, False),
    ],
)
def test_only_what_changes_the_responses_counts(changes, same):
    setup = replace(SETUP, engine="vllm", engine_version="0.32", dtype="float32")
    other = replace(setup, **changes)
    assert setup.same_responses(other) == other.same_responses(setup) == same


def test_greedy_responses_do_not_depend_on_the_seed():
    greedy = replace(SETUP, temperature=0.0, num_samples=1)
    assert greedy.same_responses(replace(greedy, seed=5, top_p=0.9, top_k=3))
    assert not greedy.same_responses(replace(greedy, max_tokens=7))
    assert not greedy.same_responses(replace(greedy, temperature=1.0))


def test_records_from_before_the_engine_was_recorded_still_read(tmp_path):
    file = write_part(tmp_path, SETUP, 0, [record(0)])
    old = {name: value for name, value in asdict(SETUP).items() if name not in NEW_FIELDS}
    table = parquet.read_table(file)
    parquet.write_table(table.replace_schema_metadata({b"evaluation_setup": json.dumps(old).encode()}), file)
    assert read_setup(tmp_path) == SETUP
    assert read_setup(tmp_path).same_responses(replace(SETUP, engine="vllm", engine_version="0.32", dtype="float32"))


def test_records_feed_the_metrics():
    table = QuestionTable.of(each.question_scores() for each in (record(1, right=False), record(0)))
    assert table.correct.tolist() == [[True, False], [False, False]]
    assert table.answers.tolist() == [[0, -1], [1, -1]]
    assert table.lengths.tolist() == [[2, 4], [2, 4]]


def test_settings_describe_themselves():
    assert SETUP.describe() == "template plain, reward math(), temperature 1, n 2, at most 3072 tokens"
    greedy = EvaluationSetup(benchmark="x", template="r1", reward="rouge", reward_params={"kind": "L"})
    assert greedy.describe() == "template r1, reward rouge(kind=L), greedy, n 1, at most 3072 tokens"
    sampled = replace(SETUP, engine="vllm", engine_version="0.32.0", dtype="bfloat16", top_p=0.9, top_k=5)
    assert "temperature 1, top_p 0.9, top_k 5, n 2, at most 3072 tokens, vllm 0.32.0 bfloat16" in sampled.describe()
