"""`lambda-grpo replay` gives again what a run logged, and shows what another method would have done."""

import csv
from pathlib import Path

import pandas
import pytest
import torch

from lambda_grpo_pl.callbacks.checkpoint import METHOD
from lambda_grpo_pl.callbacks.checkpoint_io import DurableCheckpointIO
from lambda_grpo_pl.cli.main import LambdaGRPOCLI, build
from lambda_grpo_pl.cli.replay import main as replay
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.record import RolloutRecord
from lambda_grpo_pl.replay.store import RolloutStore
from tests.integration.runs import ROOT, run

NUM_STEPS = 22
OPTIONS = [
    "--trainer.callbacks=null",
    "--trainer.val_check_interval=1000",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
    "--model.preference.lr=5.0",
    "--checkpoint.every=8",
    "--model.optimizer.warmup_steps=5",
    "--model.optimizer.schedule=cosine",
]
EVERYTHING = [
    "--model.updates.num_minibatches=2",
    "--model.preference.contextual=true",
    "--model.objective.surrogate.kl_coef=0.1",
    "--dynamic_sampling.max_rounds=1",
]
"""Old and reference log-probabilities, running moments, replaced groups."""


@pytest.fixture(scope="module")
def whole(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> LambdaGRPOCLI:
    return run("fit", policy, tmp_path_factory.mktemp("run"), *OPTIONS, f"--trainer.max_steps={NUM_STEPS}")


def replayed(folder: Path, tmp_path: Path, *arguments: str) -> list[dict[str, str]]:
    """Rows (update, metric, recorded, replayed, …) of a replay."""
    out = tmp_path / "steps.csv"
    assert replay([str(folder), *arguments, "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_replay_without_a_step_says_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"--step is missing, the policy update to look at: .* holds none"):
        replay([str(tmp_path)])


def test_twenty_steps_are_given_again_to_the_last_digit(
    whole: LambdaGRPOCLI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = replayed(Path(whole.trainer.default_root_dir), tmp_path, "--step", "2", "--to", "21")
    assert len({row["update"] for row in rows}) == 20
    for metric in ("policy/loss", "policy/gradient_norm", "preference/lambda", "preference/slope"):
        values = [row for row in rows if row["metric"] == metric]
        assert [row["recorded"] for row in values] == [row["replayed"] for row in values]
        assert len({row["recorded"] for row in values}) > 10, metric
    assert "to the last digit" in capsys.readouterr().out


def test_a_step_is_reached_from_the_nearest_checkpoint(
    whole: LambdaGRPOCLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`previous.ckpt` holds the state after rollout 16, so only two more lead to the one that is looked at."""
    from lambda_grpo_pl.cli import replay as command

    learned: list[list[int]] = []
    original = command.learn_again

    def spy(module, records, *rest):  # type: ignore[no-untyped-def]
        learned.append([record.facts.rollout for record in records])
        return original(module, records, *rest)

    monkeypatch.setattr(command, "learn_again", spy)
    rows = replayed(Path(whole.trainer.default_root_dir), tmp_path, "--step", "19")
    assert learned == [[16, 17], [18]]
    assert all(row["recorded"] == row["replayed"] for row in rows)


def assert_grpo_is(expected: RolloutRecord, rows: list[dict[str, str]]) -> None:
    """The column of GRPO is what its own run recorded, and differs from that of the method that was recorded."""
    assert {row["metric"]: row["grpo"] for row in rows} == {
        row["metric"]: repr(expected.facts.metrics.get(row["metric"])) for row in rows
    }
    norm = next(row for row in rows if row["metric"] == "policy/gradient_norm")
    assert norm["grpo"] != norm["replayed"] == norm["recorded"]


def test_another_method_does_what_its_own_run_does(
    whole: LambdaGRPOCLI, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GRPO run from the same weights samples the same first rollout, so its first update is the one to expect."""
    grpo = run("fit", policy, tmp_path / "grpo", *OPTIONS, f"--trainer.max_steps={NUM_STEPS}", "--trainer.limit_train_batches=1", method="grpo")  # fmt: skip # noqa: E501
    expected = RolloutStore(tmp_path / "grpo" / "rollouts").read(0)
    folder = Path(whole.trainer.default_root_dir)
    ours = RolloutStore(folder / "rollouts").read(0)
    assert torch.equal(ours.batch.sampled().ids, expected.batch.sampled().ids)
    assert_grpo_is(expected, replayed(folder, tmp_path, "--step", "1", "--model.preference.family", "grpo"))
    assert grpo.model.method_name == "grpo"
    assert "grpo" in capsys.readouterr().out


def test_another_method_at_a_checkpoint_does_what_its_own_run_from_there_does(
    whole: LambdaGRPOCLI, policy: Path, tmp_path: Path
) -> None:
    """A GRPO run that is given the state after rollout 16, with optimizer and schedule, samples the same rollout 16."""
    folder = Path(whole.trainer.default_root_dir)
    state = torch.load(folder / "checkpoints" / "previous.ckpt", weights_only=True)
    assert state["PromptDataModule"]["position"]["num_batches"] == 16
    state[METHOD] = "grpo"
    start = tmp_path / "start" / "checkpoints" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(state, start)
    options = [*OPTIONS, f"--trainer.max_steps={NUM_STEPS}", "--trainer.limit_train_batches=17"]
    run("fit", policy, tmp_path / "grpo", *options, f"--ckpt_path={start}", method="grpo")
    expected, ours = (RolloutStore(path / "rollouts").read(16) for path in (tmp_path / "grpo", folder))
    assert torch.equal(ours.batch.sampled().ids, expected.batch.sampled().ids)
    assert_grpo_is(expected, replayed(folder, tmp_path, "--step", "17", "--model.preference.family", "grpo"))


@pytest.mark.slow
def test_twenty_steps_of_the_demo_are_given_again_to_the_last_digit(tmp_path: Path) -> None:
    """The built-in model and task of `make demo`, with a λ that learns."""
    configs = [f"--config={ROOT}/configs/{name}.yaml" for name in ("base", "preference/lambda", "demo")]
    options = [
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.max_steps=22",
        "--trainer.val_check_interval=1000",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--checkpoint.every=8",
        "--table.every=0",
    ]
    build(["fit", *configs, *options])
    rows = replayed(tmp_path / "run", tmp_path, "--step", "2", "--to", "21")
    assert len({row["update"] for row in rows}) == 20
    assert all(row["recorded"] == row["replayed"] for row in rows)
    for metric in ("policy/loss", "policy/gradient_norm", "preference/lambda"):
        assert len({row["recorded"] for row in rows if row["metric"] == metric}) > 10, metric


@pytest.mark.parametrize("method", ["lambda", "dr_grpo"])
def test_several_updates_per_rollout_with_a_reference(policy: Path, tmp_path: Path, method: str) -> None:
    options = EVERYTHING if method == "lambda" else [each for each in EVERYTHING if "contextual" not in each]
    run("fit", policy, tmp_path / "run", *OPTIONS, *options, "--trainer.max_steps=6", method=method)
    rows = replayed(tmp_path / "run", tmp_path, "--step", "3", "--to", "6")
    assert {row["update"] for row in rows} == {"4", "6"}
    assert all(row["recorded"] == row["replayed"] for row in rows)


def test_the_validation_rule_is_replayed_with_its_heldout_prompts(policy: Path, tmp_path: Path) -> None:
    options = ["--data.heldout.split=test", "--heldout.every=2", "--heldout.num_prompts=2", "--trainer.max_steps=4"]
    run("fit", policy, tmp_path / "run", *OPTIONS, *options, method="lambda_validation")
    rows = replayed(tmp_path / "run", tmp_path, "--step", "1", "--to", "4")
    assert all(row["recorded"] == row["replayed"] for row in rows)
    lambdas = [row["recorded"] for row in rows if row["metric"] == "preference/lambda"]
    assert len(set(lambdas)) > 1


def test_pandas_reads_every_rollout_in_one_line(whole: LambdaGRPOCLI) -> None:
    rows = pandas.read_parquet(Path(whole.trainer.default_root_dir) / "rollouts")
    assert len(rows) == NUM_STEPS * 16
    assert set(rows["update"]) == set(range(1, NUM_STEPS + 1))
    assert (rows["length"] == rows["response_ids"].map(len)).all()
    assert rows.groupby(["update", "prompt"])["advantage"].mean().abs().max() < 1e-5
    assert (rows.groupby("update")["f"].mean() - 1).abs().max() < 0.5


def test_what_is_not_recorded_is_said(whole: LambdaGRPOCLI, tmp_path: Path) -> None:
    folder = whole.trainer.default_root_dir
    with pytest.raises(UserError, match=r"update 99.*updates 1 to 22"):
        replay([folder, "--step", "99"])
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        replay([str(tmp_path), "--step", "1"])
