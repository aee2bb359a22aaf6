"""What the reward callback logs, and how many verifier processes each rank takes."""

import os
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from lambda_grpo_pl.callbacks import RewardCallback, reward
from lambda_grpo_pl.rewards import RewardSpec, RewardSuite, SuiteScores
from tests.scored import scored_batch


def test_failures_and_missing_answers_are_shares_as_in_evaluation() -> None:
    logged: dict[str, Any] = {}
    module: Any = SimpleNamespace(log_dict=lambda metrics, **_: logged.update(metrics))
    scores = SuiteScores([], {}, [], [], num_failed=4, num_no_answer=8, extras={"mine/words": 3.0})
    RewardCallback()._log(module, scored_batch(0), scores)
    assert (logged["reward/verifier_failed"], logged["reward/no_answer"]) == (4 / 16, 8 / 16)
    assert logged["reward/mine/words"] == 3.0


def num_workers(trainer: L.Trainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the training rewards, and of a validation set's own, after `setup`."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(12))
    monkeypatch.setattr(reward, "engine", lambda trainer: None)
    callback, module = RewardCallback(), L.LightningModule()
    before = callback.suites.find([RewardSpec(name="math", weight=2.0)])
    callback.setup(trainer, module, "validate")
    after = callback.suites.find([RewardSpec(name="math", weight=3.0)])
    suites: list[RewardSuite] = [callback.suites.training, before, after]
    return [suite._pool.config.size for suite in suites]


def test_ranks_that_lightning_starts_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert num_workers(L.Trainer(**quiet, devices=4, strategy="ddp"), monkeypatch) == [3, 3, 3]
    assert num_workers(L.Trainer(**quiet, devices=1), monkeypatch) == [8, 8, 8]


def test_ranks_of_slurm_keep_the_cores_that_it_binds_them_to(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = SimpleNamespace(cluster_environment=SLURMEnvironment())
    trainer: Any = SimpleNamespace(strategy=strategy, num_devices=4)
    assert num_workers(trainer, monkeypatch) == [8, 8, 8]
