"""A comparison pairs questions, averages seeds, adjusts for the number of tests and says what limits it."""

import json

import pytest

from lambda_grpo_pl.data.benchmarks import MATH8, in_registry_order
from lambda_grpo_pl.evaluation.compare import compare, main
from lambda_grpo_pl.evaluation.report import RunInfo, tabulate_records, write_tables
from lambda_grpo_pl.evaluation.runs import Row


@pytest.fixture
def run(tmp_path, evaluate):
    """Make a run folder in which each benchmark has its first `num_right` questions right."""

    def make(name, method, seed=1, model="Qwen/Qwen2.5-1.5B", num=100, step=10, template="plain", **num_right):
        folder = tmp_path / name
        evaluation = folder / "evaluation" / f"step-{step:06d}"
        for benchmark, right in num_right.items():
            evaluate(evaluation, benchmark, [[i < right] for i in range(num)], template=template)
        write_tables(
            evaluation, RunInfo(model=model, method=method, seed=seed, step=step), tabulate_records(evaluation)
        )
        return folder

    return make


def test_differences_are_paired_and_held_to_the_adjusted_p_value(run):
    report = compare([run("a", "grpo", gsm8k=40, svamp=50), run("b", "lambda", gsm8k=60, svamp=51)])
    assert report.benchmarks == ["gsm8k", "svamp"]
    by_benchmark = {each.benchmark: each for each in report.differences}
    assert by_benchmark["gsm8k"].comparison.difference.mean == pytest.approx(0.2)
    assert by_benchmark["gsm8k"].comparison.p_mcnemar == pytest.approx(2 / 2**20)
    assert by_benchmark["gsm8k"].holds
    assert not by_benchmark["svamp"].holds
    assert by_benchmark["average"].comparison.difference.mean == pytest.approx(0.105)
    assert all(each.p_holm >= each.comparison.p_bootstrap for each in report.differences)
    assert all(each.baseline == "Qwen2.5-1.5B grpo" for each in report.differences)


def test_questions_are_paired_by_id_whatever_their_order():
    first = Row("a", RunInfo(), 1, {"gsm8k": {"q1": 0.1, "q2": 0.2, "q3": 0.3}}, {})
    second = Row("b", RunInfo(), 1, {"gsm8k": {"q3": 3.0, "q4": 4.0, "q1": 1.0}}, {})
    assert first.paired(second, "gsm8k") == ([0.1, 0.3], [1.0, 3.0])
    with pytest.raises(ValueError, match="share no question of gsm8k"):
        first.paired(Row("c", RunInfo(), 1, {"gsm8k": {"q9": 1.0}}, {}), "gsm8k")


def test_scores_equal_those_of_the_run(run):
    folder = run("a", "grpo", gsm8k=37)
    report = compare([folder, run("b", "dapo", gsm8k=41)])
    scores = json.loads((folder / "evaluation" / "step-000010" / "scores.json").read_text())
    own = scores["benchmarks"]["gsm8k"]["measures"]
    cells = report.cells["Qwen2.5-1.5B grpo"]
    assert cells["gsm8k"] == cells["average"] == (own["accuracy"], own["accuracy_low"], own["accuracy_high"])


def test_the_last_evaluation_of_a_run_counts_unless_one_is_named(run):
    folder = run("a", "grpo", step=0, gsm8k=10)
    run("a", "grpo", step=200, gsm8k=90)
    other = run("b", "dapo", gsm8k=50)
    assert compare([folder, other]).cells["Qwen2.5-1.5B grpo"]["gsm8k"].mean == 0.9
    first = compare([folder / "evaluation" / "step-000000", other])
    assert first.cells["Qwen2.5-1.5B grpo"]["gsm8k"].mean == 0.1


def test_seeds_of_one_method_are_averaged_question_by_question(run):
    seeds = [run(f"l{seed}", "lambda", seed=seed, gsm8k=right) for seed, right in enumerate((40, 60))]
    report = compare([run("g", "grpo", gsm8k=40), *seeds])
    row = report.rows[1]
    assert (row.num_seeds, report.cells[row.label]["gsm8k"].mean) == (2, 0.5)
    assert row.values["gsm8k"]["gsm8k-50"] == 0.5
    assert report.differences[0].comparison.p_mcnemar is None


def test_runs_that_repeat_a_seed_stay_apart(run):
    report = compare([run("a", "grpo", gsm8k=40), run("b", "grpo", gsm8k=50)])
    assert [row.num_seeds for row in report.rows] == [1, 1]
    assert report.rows[0].label.endswith("a)")


def test_one_command_makes_the_papers_table(run, capsys, tmp_path):
    sizes, methods = ("7B", "1.5B", "3B"), ("lambda", "dr_grpo", "grpo", "dapo")
    folders = [
        run(f"{size}-{method}", method, model=f"Qwen/Qwen2.5-{size}", num=20, **dict.fromkeys(MATH8, 5 + i))
        for size in sizes
        for i, method in enumerate(methods)
    ]
    assert main(["--layout", "paper", "--json", str(tmp_path / "table.json"), *map(str, folders)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | method | " + " | ".join([*in_registry_order(MATH8), "average"]) + " |"
    rows = [line.split(" | ")[:2] for line in lines[2:14]]
    names = ["GRPO", "DAPO", "Dr. GRPO", "λ-GRPO"]
    assert rows == [[f"| Qwen2.5-{size}", name] for size in ("1.5B", "3B", "7B") for name in names]
    saved = json.loads((tmp_path / "table.json").read_text())
    assert len(saved["rows"]) == 12
    assert len(saved["differences"]) == 3 * 3 * 9
    assert {each["baseline"] for each in saved["differences"]} == {f"Qwen2.5-{size} grpo" for size in sizes}


def test_other_settings_and_missing_questions_are_said(run):
    report = compare(
        [
            run("a", "grpo", gsm8k=40, svamp=1),
            run("b", "dapo", gsm8k=40, template="r1"),
            run("c", "lambda", gsm8k=9, svamp=1, num=50),
        ]
    )
    notes = "\n".join(report.notes)
    assert "gsm8k: Qwen2.5-1.5B grpo and Qwen2.5-1.5B dapo differ in template (plain; r1)" in notes
    assert "share 50 of 100 questions" in notes
    assert "The average leaves out svamp" in notes
    assert report.differences[0].benchmark == "gsm8k"


def test_markdown_marks_what_holds_and_prints_the_settings(run, capsys):
    main([str(run("a", "grpo", gsm8k=40)), str(run("b", "lambda", gsm8k=70)), str(run("c", "dapo", gsm8k=10))])
    text = capsys.readouterr().out
    assert "| Qwen2.5-1.5B grpo | 40.0 [" in text
    marks = {line.split()[2]: line.count("▲") - line.count("▼") for line in text.splitlines()[2:5]}
    assert marks == {"grpo": 0, "lambda": 2, "dapo": -2}
    assert "template plain, reward math()" in text


def test_refusals_say_what_to_change(run, tmp_path, capsys):
    one, other = run("a", "grpo", gsm8k=4), run("b", "dapo", gsm8k=5)
    for arguments, message in [
        ([one], "at least two runs"),
        ([one, tmp_path / "nothing"], "holds no evaluation"),
        ([one, other, "--baseline", "ppo"], "choose the baseline among Qwen2.5-1.5B grpo"),
        ([one, other, "--benchmarks", "aime24"], "choose among gsm8k"),
        ([one, run("c", "", model="", gsm8k=5), "--layout", "paper"], "does not say its model and method"),
    ]:
        with pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
        assert message in capsys.readouterr().err
