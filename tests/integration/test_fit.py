"""`lambda-grpo fit`: rewards rise, every method runs, and a resumed run is the uninterrupted one, bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from lambda_grpo_pl.callbacks import RunSummary
from lambda_grpo_pl.callbacks.context import find_callback
from tests.integration.runs import ROOT, run

METHODS = sorted(path.stem for path in (ROOT / "configs/preference").glob("*.yaml"))
CHECKPOINT = "--trainer.callbacks=[{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {{dirpath: {folder}, every_n_train_steps: 2, save_top_k: -1}}}}]"  # noqa: E501

AGE: list[list[str]] = [[], ["--one_step_off.enabled=true", "--model.objective.surrogate.is_correction=truncate"]]
"""Options of rollouts that are fresh, and of those that are one step old."""


@pytest.mark.parametrize("options", AGE, ids=["on-policy", "one step off"])
def test_reward_goes_up(policy: Path, tmp_path: Path, options: list[str]) -> None:
    cli = run(
        "fit",
        policy,
        tmp_path,
        "--trainer.callbacks=null",
        "--trainer.max_steps=30",
        "--trainer.val_check_interval=1000",
        "--data.batch_size=8",
        "--rollout.sampling.num_samples=8",
        "--model.optimizer.lr=3e-3",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        *options,
    )
    rewards = find_callback(cli.trainer, RunSummary).series["reward/mean"]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > first + 0.3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_jsonl_questions(policy: Path, tmp_path: Path, method: str) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [
        f'{{"question": "Ann has {n} apples and buys {n + 1}. How many?", "answer": "{2 * n + 1}"}}' for n in range(9)
    ]
    questions.write_text("\n".join(rows))
    heldout = ["--data.heldout.path", str(questions)]
    path = tmp_path / "path.csv"
    path.write_text("update,preference/lambda\n3,-0.5\n")
    options = {
        "lambda_validation": heldout,
        "correlation": [*heldout, "--heldout.every=2", "--heldout.num_prompts=4", "--heldout.length_cost=0.5"],
        "placebo": ["--model.preference.placebo", str(path)],
    }
    cli = run(
        "fit",
        policy,
        tmp_path,
        "--trainer.callbacks=null",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=1000",
        f"--data.train.path={questions}",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        *options.get(method, []),
        method=method,
    )
    assert cli.trainer.global_step == 3
    assert (tmp_path / "policy" / "model.safetensors").exists()
    assert (tmp_path / "run.png").exists()
    metrics = cli.trainer.callback_metrics
    assert {"lens/own/prefix_bias", "lens/grpo/sign_balance", "lens/power_0.5/weight_long"} <= set(metrics)
    assert ("lens/grpo/gain" in metrics) == (method in ("lambda_validation", "correlation"))
    gains = find_callback(cli.trainer, RunSummary).gains
    assert [len(values) for values in gains.values()] == [2] * 6 * (method == "correlation") + [1] * 6 * (
        method == "lambda_validation"
    )


@pytest.mark.parametrize("options", AGE, ids=["on-policy", "one step off"])
def test_a_resumed_run_is_the_uninterrupted_one(policy: Path, tmp_path: Path, options: list[str]) -> None:
    """Weights, λ, both optimizers, the data's position, the sampling seeds and rollouts sampled ahead come back."""
    common = [
        "--trainer.val_check_interval=1000",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        "--dynamic_sampling.max_rounds=1",
        "--model.preference.contextual=true",
        "--model.preference.lr=5.0",
        "--model.optimizer.warmup_steps=3",
        *options,
    ]
    whole = run(
        "fit",
        policy,
        tmp_path / "whole",
        CHECKPOINT.format(folder=tmp_path / "whole"),
        "--trainer.max_steps=5",
        *common,
    )
    checkpoint = next((tmp_path / "whole").glob("*step=2.ckpt"))
    resumed = run(
        "fit",
        policy,
        tmp_path / "resumed",
        CHECKPOINT.format(folder=tmp_path / "resumed"),
        "--trainer.max_steps=5",
        f"--ckpt_path={checkpoint}",
        *common,
    )
    expected, result = whole.model.state_dict(), resumed.model.state_dict()
    assert expected["preference.lam"] != 0.0
    for name, value in expected.items():
        assert torch.equal(result[name], value), name
    series = [find_callback(cli.trainer, RunSummary).series for cli in (whole, resumed)]
    assert series[0] == series[1]


def test_a_tokenizer_without_a_pad_token_trains_and_says_what_it_pads_with(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "unpadded"
    shutil.copytree(policy, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    options = ["--trainer.callbacks=null", "--trainer.max_steps=1", "--trainer.val_check_interval=1000"]
    reward = "--reward.functions=[{name: tests.integration.runs.digit_share}]"
    cli = run("fit", folder, tmp_path / "run", *options, reward)
    assert cli.trainer.global_step == 1
    assert any("has no pad token: using" in message for message in caplog.messages)
