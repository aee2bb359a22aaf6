"""`lambda-grpo plan` from the command line."""

import json
import sys

import pytest
import torch

from lambda_grpo_pl.cli import entry
from tests.test_configs import BASE

SMALL = [*BASE, "--rollout.sampler", "transformers", "--data.rules.max_prompt_tokens", "64"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lambda-grpo", "plan", *arguments])
    return entry.main()


def test_a_plan_as_json(in_root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, *SMALL, "--trainer.accelerator", "cpu", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert plan["peak"] == max(plan["totals"].values())
    assert plan["largest_tokens_per_micro_batch"] > 2048


def test_a_run_that_does_not_fit_says_what_to_change(
    in_root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *SMALL, "--trainer.accelerator", "gpu", "--gpu", "1.51") == 1
    said = capsys.readouterr().out
    assert "Does not fit 1.51 GiB:" in said
    assert "model.policy.gradient_checkpointing: true" in said


def test_offloaded_weights_need_a_process_group_for_the_cpu(
    in_root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `fit` refuses, `plan` refuses too; the overlay sets both keys."""
    eight = ["--gpu", "h100", "--trainer.devices", "8"]
    sharded = [*SMALL, *eight, "--config", "configs/strategy/fsdp2.yaml", "--data.batch_size", "64"]
    assert run(monkeypatch, *sharded, "--model.policy.sharding.cpu_offload", "true") == 2
    assert "process_group_backend is nccl, which exchanges nothing in host memory" in capsys.readouterr().err
    assert run(monkeypatch, *sharded, "--config", "configs/strategy/cpu_offload.yaml") == 0


ON_CPU = ["--trainer.accelerator", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*ON_CPU, "--rollout.sampling.top_p", "0.9"], "rollout.sampling.top_p (on the command line) is 0.9, so"),
        ([*ON_CPU, "--one_step_off.enabled", "true"], "one_step_off.enabled (on the command line) is true, but"),
        ([*ON_CPU, "--data.batch_size", "9", "--trainer.devices", "2"], "data.batch_size"),
        ([*ON_CPU, "--rollout.sampler", "vllm", "--rollout.engine.sleep", "true"], "true, but there is no GPU"),
    ],
)
def test_what_a_fit_refuses_is_not_planned(
    in_root: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch, *BASE, *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_correction_allows_what_it_corrects(in_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    corrected = ["--rollout.sampling.top_p", "0.9", "--model.objective.surrogate.is_correction", "truncate"]
    assert run(monkeypatch, *SMALL, *ON_CPU, *corrected) == 0


def test_a_mistake_is_one_sentence(
    in_root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *SMALL, "--trainer.accelerator", "gpu", "--gpu", "h1000") == 2
    assert "--gpu is h1000" in capsys.readouterr().err
    assert run(monkeypatch, *SMALL, "--trainer.accelerator", "cpu", "--gpu", "h100") == 2
    assert "trainer.accelerator (on the command line) is cpu: leave one of them out" in capsys.readouterr().err
