"""A comparison pairs questions, averages seeds, adjusts for the number of tests and says what limits it."""

import json
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from lambda_grpo_pl.data.benchmarks import MATH8, in_registry_order
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.compare import compare, main
from lambda_grpo_pl.evaluation.compare_report import as_json, as_markdown
from lambda_grpo_pl.evaluation.report import RunInfo, tabulate_records, write_tables
from lambda_grpo_pl.evaluation.runs import MethodRuns


@pytest.fixture
def run(tmp_path, evaluate):
    """Make a run folder in which each benchmark has its first `num_right` questions right."""

    def make(
        name,
        method,
        seed=1,
        model="Qwen/Qwen2.5-1.5B",
        num=100,
        step=10,
        template="plain",
        version="",
        **num_right,
    ):
        folder = tmp_path / name
        evaluation = folder / "evaluation" / f"step-{step:06d}"
        for benchmark, right in num_right.items():
            evaluate(
                evaluation,
                benchmark,
                [[i < right] for i in range(num)],
                template=template,
                engine_version=version,
            )
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
    assert all(each.p_holm >= each.comparison.p_value for each in report.differences)
    assert all(each.baseline == "Qwen2.5-1.5B grpo" for each in report.differences)


def method(label, seeds, **values):
    return MethodRuns(label, RunInfo(), seeds, {"gsm8k": values}, {})


def test_questions_are_paired_by_id_whatever_their_order():
    first = method("a", (None,), q1=(0.1,), q2=(0.2,), q3=(0.3,))
    second = method("b", (None,), q3=(3.0,), q4=(4.0,), q1=(1.0,))
    assert [table.tolist() for table in first.pair(second, "gsm8k")] == [[[0.1, 0.3]], [[1.0, 3.0]]]
    with pytest.raises(UserError, match="share no question of gsm8k"):
        first.pair(method("c", (None,), q9=(1.0,)), "gsm8k")


def test_runs_are_paired_by_seed_whatever_their_order():
    first, second = method("a", (1, 2), q=(0.1, 0.2)), method("b", (2, 1), q=(2.0, 1.0))
    assert [table.tolist() for table in first.pair(second, "gsm8k")] == [[[0.1], [0.2]], [[1.0], [2.0]]]
    assert first.pairs_seeds(second)
    other = method("c", (2, 3), q=(2.0, 3.0))
    assert not first.pairs_seeds(other)
    assert first.pair(other, "gsm8k")[1].tolist() == [[2.0], [3.0]]


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


def test_recorded_rollouts_beside_an_evaluation_are_not_taken_for_one(run):
    folder, other = run("a", "grpo", gsm8k=90), run("b", "dapo", gsm8k=50)
    (folder / "rollouts").mkdir()
    parquet.write_table(pa.table({"tokens": [[1, 2]]}), folder / "rollouts" / "rollout-000001-rank0.parquet")
    assert compare([folder, other]).cells["Qwen2.5-1.5B grpo"]["gsm8k"].mean == 0.9


def test_seeds_of_one_method_are_grouped_and_widen_its_interval(run):
    seeds = [run(f"l{seed}", "lambda", seed=seed, gsm8k=right) for seed, right in enumerate((40, 60))]
    report = compare([run("g", "grpo", seed=0, gsm8k=40), *seeds])
    grouped = report.methods[1]
    assert (grouped.seeds, report.cells[grouped.label]["gsm8k"].mean) == ((0, 1), 0.5)
    assert grouped.values["gsm8k"]["gsm8k-50"] == (0.0, 1.0)
    assert report.differences[0].comparison.p_mcnemar is None
    one = compare([run("h", "dapo", gsm8k=40), run("k", "grpo", gsm8k=50)]).cells["Qwen2.5-1.5B grpo"]["gsm8k"]
    two = report.cells[grouped.label]["gsm8k"]
    assert two.high - two.low > 2 * (one.high - one.low)
    notes = "\n".join(report.notes)
    assert "One seed of Qwen2.5-1.5B grpo: intervals and p-values do not include its variance" in notes
    assert "Qwen2.5-1.5B grpo and Qwen2.5-1.5B lambda ran different seeds" in notes
    assert "(2 seeds)" in as_markdown(report)
    assert "bootstrap over questions and seeds" in as_markdown(report)


def test_equal_seeds_are_paired_without_a_note(run):
    runs = [run(f"{name}{seed}", name, seed=seed, gsm8k=40 + seed) for name in ("grpo", "dapo") for seed in (1, 2)]
    report = compare(runs)
    assert report.notes == []
    assert report.differences[0].comparison.difference.mean == 0
    assert report.differences[0].comparison.p_value == 1
    assert as_json(report)["methods"][0]["seeds"] == (1, 2)


def test_json_holds_no_infinity(run):
    report = compare([run("a", "grpo", gsm8k=4), run("b", "dapo", gsm8k=4)])
    json.dumps(as_json(report), allow_nan=False)
    assert as_json(report)["differences"][0]["standard_error"] == 0


def test_seeds_of_one_method_that_were_measured_differently_are_said(run):
    runs = [run("a1", "grpo", seed=1, gsm8k=4), run("a2", "grpo", seed=2, gsm8k=4, template="r1")]
    notes = compare([*runs, run("b", "dapo", gsm8k=4)]).notes
    assert (
        "gsm8k: seeds 1 and 2 of Qwen2.5-1.5B grpo differ in template (plain; r1): not the same measurement." in notes
    )


def test_equivalence_is_tested_within_a_margin(run, capsys):
    runs = [str(run("a", "grpo", num=400, gsm8k=200)), str(run("b", "dapo", num=400, gsm8k=202))]
    (difference, _) = compare(runs, margin=0.05).differences
    assert difference.p_equivalence < 1e-6
    assert compare(runs, margin=0.004).differences[0].p_equivalence > 0.5
    main([*runs, "--margin", "0.05"])
    assert "difference within ±5 points" in capsys.readouterr().out


def test_runs_that_repeat_a_seed_stay_apart(run):
    report = compare([run("a", "grpo", gsm8k=40), run("b", "grpo", gsm8k=50)])
    assert [len(each.seeds) for each in report.methods] == [1, 1]
    assert report.methods[0].label.endswith("a)")


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
    assert len(saved["methods"]) == 12
    assert len(saved["differences"]) == 3 * 3 * 9
    assert {each["baseline"] for each in saved["differences"]} == {f"Qwen2.5-{size} grpo" for size in sizes}


def test_other_settings_and_missing_questions_are_said(run):
    report = compare(
        [
            run("a", "grpo", gsm8k=40, svamp=1),
            run("b", "dapo", gsm8k=40, template="r1", version="0.32"),
            run("c", "lambda", gsm8k=9, svamp=1, num=50),
        ]
    )
    notes = "\n".join(report.notes)
    assert (
        "gsm8k: Qwen2.5-1.5B grpo and Qwen2.5-1.5B dapo differ in template (plain; r1), "
        "engine_version (not recorded; 0.32): not" in notes
    )
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


def test_refusals_say_what_to_change(run, tmp_path):
    (tmp_path / "empty").mkdir()
    one, other = run("a", "grpo", gsm8k=4), run("b", "dapo", gsm8k=5)
    for arguments, message in [
        ([one], "Nothing to compare"),
        ([one, tmp_path / "empty"], "holds no evaluation"),
        ([one, tmp_path / "nothing"], "is not a folder: name the folder of a run"),
        ([one, other, "--baseline", "ppo"], "available baselines: Qwen2.5-1.5B grpo"),
        ([one, other, "--benchmarks", "aime24"], "available: gsm8k"),
        ([one, other, "--confidence", "95"], "must be between 0 and 1"),
        ([one, other, "--margin", "0"], "must be above 0"),
        ([one, run("c", "", model="", gsm8k=5), "--layout", "paper"], "does not name its model and method"),
    ]:
        with pytest.raises(UserError, match=message):
            main([str(argument) for argument in arguments])


def test_one_method_alone_is_refused_with_what_could_be_compared(run):
    one = run("a", "grpo", gsm8k=40)
    with pytest.raises(UserError, match=r"all that was given is Qwen2.5-1.5B grpo \(1 run.*evaluation/step-000000"):
        compare([one])
    with pytest.raises(UserError, match=r"grpo \(2 run"):
        compare([one, run("b", "grpo", seed=2, gsm8k=41)])


def test_runs_on_different_sets_are_refused_and_among_others_noted(run):
    first, second = run("a", "grpo", gsm8k=40), run("b", "lambda", svamp=50)
    sentence = r"grpo \(gsm8k\) and Qwen2.5-1.5B lambda \(svamp\) have no set in common"
    with pytest.raises(UserError, match=f"{sentence}.*on the same sets"):
        compare([first, second])
    report = compare([first, second, run("c", "dapo", gsm8k=45)])
    assert any(re.search(sentence, note) for note in report.notes)
    assert [each.benchmark for each in report.differences] == ["gsm8k"]
