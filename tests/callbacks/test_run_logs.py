"""What a run logs: every registered metric and no other, once per update, with what identifies the run."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lambda_grpo_pl.callbacks import metric_names, wandb_view
from lambda_grpo_pl.callbacks.metric_names import METRICS, find_metric
from lambda_grpo_pl.callbacks.metrics_file import MetricsFile
from lambda_grpo_pl.errors import UserError
from tests.callbacks.wandb_files import OfflineRun, read_offline_runs
from tests.integration.runs import run

NOT_OURS = {"epoch", "step", "update", "trainer/global_step", "_step", "_runtime", "_timestamp", "_wandb"}
TABLES = {"completions", "preference/curve_table"}


def loggers(folder: Path) -> str:
    kinds = [f"lambda_grpo_pl.callbacks.{kind}" for kind in ("RunCSVLogger", "RunWandbLogger")]
    kinds.append("lightning.pytorch.loggers.TensorBoardLogger")
    entries = (f"{{class_path: {kind}, init_args: {{save_dir: {folder}}}}}" for kind in kinds)
    return f"--trainer.logger=[{', '.join(entries)}]"


def options(folder: Path) -> list[str]:
    checkpoint = f"{{dirpath: {folder}/checkpoints, every_n_train_steps: 1, save_top_k: -1}}"
    return [
        loggers(folder),
        f"--trainer.callbacks=[{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {checkpoint}}}]",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        "--data.val=[{split: test, limit: 4}]",
        "--trainer.num_sanity_val_steps=-1",
        "--trainer.val_check_interval=2",
        "--monitor.curve_every=1",
    ]


EVERY_FEATURE = [
    "--model.objective.surrogate.kl_coef=0.1",
    "--model.objective.surrogate.is_correction=truncate",
    "--model.updates.num_minibatches=2",
    "--dynamic_sampling.max_rounds=1",
    "--table.every=1",
    "--data.heldout.split=validation",
    "--heldout.every=1",
    "--heldout.num_prompts=2",
]
OF_ANOTHER_RULE = {"preference/correlation"}
"""What a run under the `surrogate` rule does not log."""


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def updates_of(rows: list[dict[str, str]], metric: str = "reward/mean") -> list[int]:
    return [int(row["update"]) for row in rows if row.get(metric)]


@pytest.fixture(scope="module")
def finished(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run of two rollouts, two updates each, with every feature that adds a metric."""
    folder = tmp_path_factory.mktemp("run")
    run("fit", policy, folder, *options(folder), *EVERY_FEATURE, "--trainer.max_steps=4")
    return folder


@pytest.fixture(scope="module")
def offline(finished: Path) -> OfflineRun:
    runs = read_offline_runs(finished)
    assert len(runs) == 1
    return runs[0]


def test_every_registered_metric_is_logged_and_every_logged_one_is_registered(finished: Path) -> None:
    logged = {name for row in read_metrics(finished) for name, value in row.items() if value} - NOT_OURS
    unregistered = {name for name in logged if find_metric(name) is None}
    assert not unregistered
    patterns = {name for name in METRICS if "*" in name}
    assert set(METRICS) - patterns - OF_ANOTHER_RULE <= logged
    assert {
        pattern for pattern in patterns if any(find_metric(name) is METRICS[pattern] for name in logged)
    } == patterns


def test_the_offline_run_holds_every_metric_and_the_tables(finished: Path, offline: OfflineRun) -> None:
    logged = {name for step in offline.history for name in step}
    assert {name for name in METRICS if "*" not in name} - OF_ANOTHER_RULE <= logged
    assert logged >= TABLES
    assert {name for name in logged if find_metric(name) is None} <= NOT_OURS | TABLES


def test_tensorboard_has_the_names_and_values_of_the_csv_file(finished: Path) -> None:
    (file,) = finished.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    rows = read_metrics(finished)
    logged = {name for row in rows for name, value in row.items() if value}
    assert set(events.Tags()["scalars"]) == logged
    for name in logged - NOT_OURS:
        written = [float(row[name]) for row in rows if row[name]]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(written, rel=1e-6, nan_ok=True), name


def test_the_offline_run_says_what_was_run(finished: Path, offline: OfflineRun, policy: Path) -> None:
    assert offline.name == f"lambda {policy.name} seed 0"
    assert offline.group == f"lambda {policy.name}"
    assert offline.tags == ["lambda", policy.name]
    assert offline.config["model"]["optimizer"]["lr"] == 1e-3
    assert offline.config["model"]["objective"]["surrogate"]["kl_coef"] == 0.1
    assert offline.config["seed_everything"] == 0


def test_every_chart_is_drawn_against_updates(offline: OfflineRun) -> None:
    assert offline.axes["*"] == "update"
    assert [step["update"] for step in offline.history if "reward/mean" in step] == [2.0, 4.0]
    base = next(step for step in offline.history if "val/average" in step)
    assert base["update"] == 0.0


def test_a_resumed_run_continues_its_logs_and_validate_leaves_them_alone(policy: Path, tmp_path: Path) -> None:
    run("fit", policy, tmp_path, *options(tmp_path), "--trainer.max_steps=4")
    before = read_metrics(tmp_path)
    checkpoint = next(tmp_path.glob("checkpoints/*step=2.ckpt"))
    resumed = [*options(tmp_path), f"--ckpt_path={checkpoint}"]
    run("fit", policy, tmp_path, *resumed, "--trainer.max_steps=5")
    after = read_metrics(tmp_path)
    assert updates_of(after) == [1, 2, 3, 4, 5]
    assert after[:3] == before[:3]
    assert updates_of(after, "val/average")[0] == 0
    with (tmp_path / "preference_curve.csv").open(newline="") as file:
        curve = [int(row["update"]) for row in csv.DictReader(file)]
    assert curve == [update for update in range(1, 6) for _ in range(12)]
    first, second = read_offline_runs(tmp_path)
    assert first.id == second.id
    script = (tmp_path / "wandb/upload.sh").read_text()
    assert script.count("offline-run-") == 2
    assert script.count("|| exit 1\n") == 2  # without an account there is no view to make either
    assert str(tmp_path) not in script  # the folder can be copied to a machine with a connection
    assert "step" not in after[0]  # beside update it would be a second count, one lower

    files = {path: path.read_bytes() for path in tmp_path.glob("csv/*")} | {tmp_path / "preference_curve.csv": b""}
    run("validate", policy, tmp_path, *options(tmp_path), f"--ckpt_path={checkpoint}", "--model.optimizer.lr=0.5")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["max_steps"] == 5
    assert all(path.read_bytes() == text for path, text in files.items() if text)
    assert len(read_offline_runs(tmp_path)) == 2

    shutil.rmtree(tmp_path / "checkpoints")
    run("fit", policy, tmp_path, *options(tmp_path), "--trainer.max_steps=1")
    assert updates_of(read_metrics(tmp_path)) == [1]
    assert read_offline_runs(tmp_path)[-1].id != first.id


def test_a_row_is_on_disk_at_once_and_new_columns_keep_old_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "csv/metrics.csv", resumed=False)
    file.log_metrics({"val/average": 0.5}, 0)
    file.log_metrics({"update": 3.0, "reward/mean": 1.0}, 0)
    file.log_metrics({"val/average": 0.75}, 0)
    rows = read_metrics(tmp_path)
    assert [(row["update"], row["val/average"], row["reward/mean"]) for row in rows] == [
        ("0", "0.5", ""),
        ("3", "", "1.0"),
        ("3", "0.75", ""),
    ]


def test_the_view_has_a_chart_for_each_metric_in_its_section() -> None:
    view = wandb_view.build_view("me", "lambda-grpo")
    assert [section.name for section in view.sections] == list(metric_names.sections())
    charts = [panel for section in view.sections for panel in section.panels]
    assert [chart.y[0] for chart in charts if chart.y] == [
        name for names in metric_names.sections().values() for name in names if "*" not in name
    ]
    lens = ("weight_short", "weight_long", "prefix_bias", "sign_balance", "gain", "gain_low", "gain_high")
    patterns = ["^reward/.*$", "^val/.*$", *(f"^lens/.*/{quantity}$" for quantity in lens)]
    assert [chart.metric_regex for chart in charts if not chart.y] == patterns
    assert {chart.x for chart in charts} == {"update"}
    assert all(section.is_open for section in view.sections)
    assert view._to_model().spec is not None


def test_the_view_is_saved_and_its_address_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[Any] = []

    def build_view(entity: str, project: str) -> Any:
        saved.append((entity, project))
        return SimpleNamespace(save=lambda: SimpleNamespace(url="https://wandb.test/view"))

    monkeypatch.setattr(wandb_view, "build_view", build_view)
    assert wandb_view.main(["me/mine"]) == 0
    assert saved == [("me", "mine")]
    assert capsys.readouterr().out == "https://wandb.test/view\n"
    assert wandb_view.main([]) == 2
    assert "Usage" in capsys.readouterr().err


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(wandb_view.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"lambda-grpo-pl\[dashboards\]"):
        wandb_view.build_view("me", "mine")
