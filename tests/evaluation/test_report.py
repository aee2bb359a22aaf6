"""The table says what was scored, how it was asked, and can be made again from the records."""

import json

import pytest
from rich.console import Console

from lambda_grpo_pl.evaluation.report import RunInfo, compute_average, scores_table, tabulate_records, write_tables

RUN = RunInfo(model="Qwen/Qwen2.5-1.5B", method="lambda", seed=1, step=100)


def test_known_verdicts_come_out_exactly(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "aime24", [[i < 3, False] for i in range(30)])
    results = tabulate_records(tmp_path)
    assert [(result.settings.benchmark, result.headline) for result in results] == [("gsm8k", 0.557), ("aime24", 0.05)]
    assert compute_average(results) == pytest.approx((0.557 + 0.05) / 2)


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


def test_one_average_is_shown_everywhere(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[True], [False]])
    evaluate(tmp_path, "svamp", [[True], [True]])
    results = tabulate_records(tmp_path)
    assert (compute_average(results), compute_average(results, ["gsm8k"]), compute_average([])) == (
        0.75,
        0.5,
        pytest.approx(float("nan"), nan_ok=True),
    )
    text = write_tables(tmp_path, RUN, results, ["gsm8k"])
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert (saved["average"], saved["average_over"]) == (0.5, ["gsm8k"])
    assert "| **average over gsm8k** | | **50.0** |" in text
    with pytest.raises(ValueError, match="without a result: xsum"):
        compute_average(results, ["xsum"])


def test_a_reward_says_what_it_reads_once(tmp_path, evaluate):
    evaluate(tmp_path, "gsm8k", [[True]])
    evaluate(tmp_path, "svamp", [[True]])
    assert write_tables(tmp_path, RUN, tabulate_records(tmp_path)).count("* math reads the last box") == 1


def test_every_name_and_number_is_whole_at_80_columns(tmp_path, evaluate):
    evaluate(tmp_path, "olympiadbench", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "gaokao2023en", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "aime24", [[True] * 32 for i in range(30)])
    console = Console(width=80, record=True, file=(tmp_path / "shown").open("w"))
    console.print(scores_table(RunInfo(step=7), tabulate_records(tmp_path), ["olympiadbench", "aime24"]))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(line for line in lines if "reads" not in line and "else" not in line)
    (row,) = (line.split() for line in lines if line.strip().startswith("olympiadbench "))
    assert row[:3] == ["olympiadbench", "1000", "55.7"]
    assert row[4:] == ["11", "0.0", "0.0", "0.0"]
    (row,) = (line.split() for line in lines if line.strip().startswith("aime24 "))
    assert row[:4] == ["aime24", "30", "×32", "100.0"]
    (row,) = (line.split() for line in lines if line.split()[:1] == ["average"] and "over" not in line)
    assert row == ["average", "77.8"]
    notes = " ".join(" ".join(lines).split())
    assert "gaokao2023en, olympiadbench: template plain, reward math(), temperature 0.6, n 1" in notes
    assert "math reads the last box" in notes
    assert "average over olympiadbench, aime24" in notes
