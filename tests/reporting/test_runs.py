"""A run's folder is read as plain data, whatever is missing or damaged."""

from pathlib import Path

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.reporting.runs import name_runs, read_run, read_runs
from lambda_grpo_pl.reporting.tables import read_curves, read_metrics
from tests.reporting.conftest import MakeRun, write_csv, write_evaluation, write_metrics


def test_a_complete_run(make_run: MakeRun) -> None:
    run = read_run(make_run("a"), "a")
    assert (run.method, run.model, run.seed, run.num_updates) == ("lambda", "tiny-model", 0, 30)
    assert run.config["model.preference.lr"] == 0.1
    assert run.versions == {"lightning": "2.6.6"}
    assert run.metrics["reward/mean"].values[-1] == 0.3
    assert [curve.update for curve in run.curves] == [1, 11, 21]
    assert run.guards[0].guard == "truncation"
    assert [evaluation.step for evaluation in run.evaluations] == [0, 30]
    scores = run.evaluations[1].scores["sums"]
    assert (scores.metric, scores.measures["accuracy"], scores.measures["pass@2"]) == ("accuracy", 0.5, 1.0)
    assert run.notes == []


def test_rows_without_an_update_belong_to_the_one_before_and_later_values_count(tmp_path: Path) -> None:
    rows = [
        {"update": "1", "reward/mean": "0.1", "val/average": ""},
        {"update": "", "reward/mean": "", "val/average": "0.5"},
        {"update": "2", "reward/mean": "nan", "val/average": ""},
        {"update": "2", "reward/mean": "0.3", "val/average": ""},
        {"update": "2", "reward/mean": "0.4", "val/average": ""},
    ]
    write_csv(tmp_path / "metrics.csv", rows)
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics == {"reward/mean": ([1, 2], [0.1, 0.4]), "val/average": ([1], [0.5])}


def test_a_row_that_was_cut_while_it_was_written_costs_only_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"update,a,b\n1,0.5,0.25\n2,0.7\n3,0.\xff\0")
    assert read_metrics(tmp_path / "metrics.csv") == {"a": ([1, 2], [0.5, 0.7]), "b": ([1], [0.25])}


def test_curves_are_grouped_by_update_and_ordered_by_length(tmp_path: Path) -> None:
    rows = [{"update": update, "relative_length": x, "f": 2 * x} for update, x in [(9, 1.5), (9, 0.5), (1, 1.0)]]
    write_csv(tmp_path / "curve.csv", rows)
    assert read_curves(tmp_path / "curve.csv") == [(1, [(1.0, 2.0)]), (9, [(0.5, 1.0), (1.5, 3.0)])]


@pytest.mark.parametrize("folder", [".", "lightning_logs/version_0", "my_logs"])
def test_metrics_are_found_where_csv_loggers_put_them(tmp_path: Path, folder: str) -> None:
    write_metrics(tmp_path / "run")
    place = tmp_path / "run" / folder / "metrics.csv"
    place.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / "csv" / "metrics.csv").rename(place)
    assert read_runs([tmp_path / "run"])[0].num_updates == 30


def test_a_run_with_metrics_alone_says_what_is_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "run" / "metrics.csv", [{"update": 1, "reward/mean": 0.5}])
    (run,) = read_runs([tmp_path / "run"])
    assert run.method == ""
    assert {note.partition(",")[0] for note in run.notes} == {"No config.yaml", "No evaluation"}


def test_an_interrupted_run_is_named_by_its_configuration_and_says_how_far_it_came(make_run: MakeRun) -> None:
    folder = make_run("a")
    write_metrics(folder, 7)
    for file in (folder / "evaluation" / "step-000030").rglob("*"):
        if file.is_file():
            file.unlink()
    run = read_run(folder, "a")
    assert run.method == "power_softmax, λ surrogate"
    assert run.notes == ["The run is not finished: 7 of 30 updates."]


def test_an_evaluation_that_was_interrupted_is_scored_from_its_records(make_run: MakeRun) -> None:
    folder = make_run("a")
    write_evaluation(folder, 40, [["7", "8"], ["7", "7"]], finished=False)
    run = read_run(folder, "a")
    assert (run.evaluations[-1].step, run.evaluations[-1].finished) == (40, False)
    assert run.evaluations[-1].scores["sums"].measures["num_questions"] == 2
    assert "step-000040 is not finished" in run.notes[0]


@pytest.mark.parametrize(
    "damaged", ["csv/config.yaml", "evaluation/step-000030/scores.json", "evaluation/step-000030/sums/records.parquet"]
)
def test_a_damaged_file_is_left_out_and_named(make_run: MakeRun, damaged: str) -> None:
    folder = make_run("a")
    (folder / damaged).write_bytes(b"\xff\xfe{ [ not this")
    run = read_run(folder, "a")
    assert any(Path(damaged).parts[-2] in note and "could not be read" in note for note in run.notes)
    assert run.num_updates == 30
    assert len(run.evaluations) == 2


def test_other_parquet_files_of_a_run_are_not_evaluations(make_run: MakeRun) -> None:
    folder = make_run("a")
    (folder / "rollouts").mkdir()
    (folder / "rollouts" / "000001.parquet").write_bytes(b"PAR1")
    run = read_run(folder, "a")
    assert [evaluation.step for evaluation in run.evaluations] == [0, 30]
    assert run.notes == []


def test_one_evaluation_alone_is_a_run_too(make_run: MakeRun) -> None:
    (run,) = read_runs([make_run("a") / "evaluation" / "step-000030"])
    assert (run.method, list(run.evaluations[0].scores)) == ("lambda", ["sums"])


def test_what_is_not_a_run_is_refused_with_a_remedy(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("a")
    with pytest.raises(UserError, match=r"contains runs: name them, for example .*/a"):
        read_runs([tmp_path])
    (run / "csv" / "metrics.csv").rename(run / "metrics.csv")
    (run / "csv" / "config.yaml").rename(run / "config.yaml")
    with pytest.raises(UserError, match=r"contains runs: name them, for example .*/a"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="is not a folder"):
        read_runs([run / "guards.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is not the folder of a run: .*trainer\.default_root_dir"):
        read_runs([tmp_path / "empty"])


def test_runs_are_named_by_the_shortest_end_of_their_path_that_differs() -> None:
    assert name_runs([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert name_runs([Path("/x/1/run"), Path("/x/2/run"), Path("/x/c")]) == ["1/run", "2/run", "c"]


def test_a_folder_given_twice_is_one_run(make_run: MakeRun) -> None:
    run = make_run("a")
    assert len(read_runs([run, run / ".." / "a"])) == 1


def test_the_lens_says_which_preference_would_have_helped(tmp_path: Path) -> None:
    rows = [{"update": u, "lens/own/gain": 0.1, "lens/grpo/gain": 0.5 + u / 100} for u in range(1, 9)]
    write_csv(tmp_path / "run" / "metrics.csv", rows)
    assert "grpo would have gained more" in read_runs([tmp_path / "run"])[0].lens_verdict
