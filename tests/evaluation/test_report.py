"""The table says what was scored, how it was asked, and can be made again from the records."""

import json

import pytest

from lambda_grpo_pl.evaluation.report import RunInfo, average_of, tabulate_records, write_tables

RUN = RunInfo(model="Qwen/Qwen2.5-1.5B", method="lambda", seed=1, step=100)


def test_known_verdicts_come_out_exactly(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "aime24", [[i < 3, False] for i in range(30)])
    results = tabulate_records(tmp_path)
    assert [(result.settings.benchmark, result.headline) for result in results] == [("gsm8k", 0.557), ("aime24", 0.05)]
    assert average_of(results) == pytest.approx((0.557 + 0.05) / 2)


def test_markdown_shows_template_extractor_and_sampling_with_every_score(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[True, False], [False, False]])
    text = write_tables(tmp_path, RUN, tabulate_records(tmp_path))
    assert text == (tmp_path / "scores.md").read_text()
    assert "# Qwen2.5-1.5B lambda, step 100" in text
    assert "* **gsm8k**: template plain, reward math(), temperature 0.6, n 2, at most 3072 tokens" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| gsm8k"))
    assert row.startswith("| gsm8k | 2 | 25.0 [")
    assert row.endswith("| 50.0 | 25.0 | 2 | 10 / 10 / 10 | 11 / 10 | 0.0 | 0.0 | 0.0 |")


def test_json_holds_every_measure_and_no_nan(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[True]])
    write_tables(tmp_path, RUN, tabulate_records(tmp_path))
    scores = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert scores["average"] == 1.0
    assert scores["benchmarks"]["gsm8k"]["measures"]["length/incorrect"] is None
    assert scores["benchmarks"]["gsm8k"]["settings"]["template"] == "plain"
    assert json.loads((tmp_path / "run.json").read_text())["method"] == "lambda"


def test_a_graded_benchmark_is_headed_by_its_score(tmp_path, evaluate):
    evaluate(tmp_path, "xsum", [[False], [False]], metric="score", scores=[[0.25], [0.5]])
    (result,) = tabulate_records(tmp_path)
    assert result.headline == 0.375
    assert "| xsum | 2 | 37.5 [" in write_tables(tmp_path, RUN, [result])


def test_no_records(tmp_path):
    with pytest.raises(ValueError, match="holds no records"):
        tabulate_records(tmp_path)
