"""Records survive a crash, resume without repeating a question, and refuse to mix settings."""

import pytest

from lambda_grpo_pl.evaluation.records import (
    EvaluationSetup,
    QuestionRecord,
    RecordWriter,
    finished,
    merge,
    read_records,
    read_settings,
)
from lambda_grpo_pl.evaluation.scores import QuestionTable

SETTINGS = EvaluationSetup(
    benchmark="marbles", template="plain", reward="math", num_samples=2, temperature=1.0, stop=("\n",)
)


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
    with RecordWriter(tmp_path, SETTINGS) as writer:
        writer.add(record(0))
    assert read_records(tmp_path) == [record(0)]
    assert read_settings(tmp_path) == SETTINGS


def test_a_killed_evaluation_resumes_without_repeating_a_question(tmp_path):
    writer = RecordWriter(tmp_path, SETTINGS, part_size=2)
    for index in (3, 1, 0):
        writer.add(record(index))  # the third waits for a part that is never written
    assert finished(tmp_path, SETTINGS) == {"marbles-3", "marbles-1"}
    (tmp_path / "part-00000-000001.unfinished").write_bytes(b"PAR1 torn")
    with RecordWriter(tmp_path, SETTINGS, part_size=2) as again:
        for index in range(4):
            if f"marbles-{index}" not in finished(tmp_path, SETTINGS):
                again.add(record(index))
    assert [each.index for each in read_records(tmp_path)] == [0, 1, 2, 3]


def test_a_removed_part_never_makes_another_be_overwritten(tmp_path):
    for index in range(3):
        with RecordWriter(tmp_path, SETTINGS) as writer:
            writer.add(record(index))
    (tmp_path / "part-00000-000000.parquet").unlink()
    with RecordWriter(tmp_path, SETTINGS) as writer:
        writer.add(record(0))
    assert finished(tmp_path) == {"marbles-0", "marbles-1", "marbles-2"}


def test_an_error_while_evaluating_keeps_what_was_added(tmp_path):
    with pytest.raises(RuntimeError), RecordWriter(tmp_path, SETTINGS) as writer:  # noqa: PT012 - the error is the point
        writer.add(record(0))
        raise RuntimeError("the engine died")
    assert finished(tmp_path) == {"marbles-0"}


def test_ranks_write_side_by_side_and_merge_into_one_sorted_file(tmp_path):
    for rank, indices in enumerate([(0, 2, 4), (1, 3, 0)]):
        with RecordWriter(tmp_path, SETTINGS, rank=rank, part_size=1) as writer:
            for index in indices:
                writer.add(record(index))
    before = read_records(tmp_path)
    path = merge(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] == ["records.parquet"]
    assert read_records(tmp_path) == before
    assert [each.index for each in before] == [0, 1, 2, 3, 4]
    assert merge(tmp_path) == path


def test_other_settings_are_refused_by_name(tmp_path):
    with RecordWriter(tmp_path, SETTINGS) as writer:
        writer.add(record(0))
    other = EvaluationSetup(**{**vars(SETTINGS), "template": "r1", "temperature": 0.6})
    with pytest.raises(ValueError, match="another template, temperature: evaluate into a new folder"):
        RecordWriter(tmp_path, other)


def test_empty_folder(tmp_path):
    assert finished(tmp_path / "nothing", SETTINGS) == set()
    for read in (read_records, read_settings, merge):
        with pytest.raises(ValueError, match="holds no records"):
            read(tmp_path)


def test_records_feed_the_metrics():
    table = QuestionTable.of(each.question_scores() for each in (record(1, right=False), record(0)))
    assert table.correct.tolist() == [[True, False], [False, False]]
    assert table.answers.tolist() == [[0, -1], [1, -1]]
    assert table.lengths.tolist() == [[2, 4], [2, 4]]


def test_settings_describe_themselves():
    assert SETTINGS.describe() == "template plain, reward math(), temperature 1, n 2, at most 3072 tokens"
    greedy = EvaluationSetup(benchmark="x", template="r1", reward="rouge", reward_params={"kind": "L"})
    assert greedy.describe() == "template r1, reward rouge(kind=L), greedy, n 1, at most 3072 tokens"
