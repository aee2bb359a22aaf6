"""A whole run whose rollouts and evaluations come from servers, one of which dies."""

import logging
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from lambda_grpo_pl.sampling.server import client
from tests.integration.runs import run
from tests.sampling.fake_server import FakeServer


def test_a_fit_goes_on_when_a_server_dies(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fake server counts the groups it samples: it dies at its fifth, and the other one takes over."""
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    config, tokenizer = AutoConfig.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    servers = [FakeServer(config, tokenizer.eos_token_id, tokenizer.pad_token_id) for _ in range(2)]
    servers[0].dies_after = 4
    urls = ", ".join(server.url for server in servers)
    with caplog.at_level(logging.WARNING):
        cli = run(
            "fit",
            policy,
            tmp_path / "run",
            "--rollout.sampler=server",
            f"--rollout.server.urls=[{urls}]",
            f"--rollout.server.weights_dir={tmp_path / 'weights'}",
            "--rollout.server.max_retries=0",
            "--rollout.engine.dtype=float32",
            "--trainer.max_steps=4",
            "--trainer.val_check_interval=4",
            "--data.val=[{split: test, limit: 4}]",
        )
    assert cli.trainer.global_step == 4
    assert "val/average" in cli.trainer.callback_metrics
    assert f"{servers[0].url} is left out" in caplog.text
    assert servers[0].num_groups == 4
    assert servers[1].num_groups >= 4 * 4 - 4
    assert not list((tmp_path / "weights").iterdir()), "the weights outlived the run"
    for server in servers:
        server.stop()
