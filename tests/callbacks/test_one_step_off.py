"""Each rollout is of the policy of one step before, is corrected for it, and is the same however it is reached."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks import RolloutCallback
from lambda_grpo_pl.callbacks.context import engine, find_callback
from lambda_grpo_pl.rollout.run_context import sampling_seed
from lambda_grpo_pl.sampling import SamplerProcess, TransformersSampler, policy_weights
from tests.integration.runs import run

AHEAD = ("--one_step_off.enabled=true", "--model.objective.surrogate.is_correction=truncate")
OPTIONS = (
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=1000",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
    "--model.optimizer.lr=0.02",
)


class Witness(L.Callback):
    """Notes the weights that each step starts from, and what it trained on."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.batches: list[RolloutBatch] = []
        self.logged: list[dict[str, float]] = []
        self.sampler: Any = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.weights.append({name: weight.clone() for name, weight in policy_weights(pl_module.policy.model)})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.batches.append(copy.deepcopy(batch))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.sampler = engine(trainer).sampler.started


WITNESS = "--trainer.callbacks=[{class_path: tests.callbacks.test_one_step_off.Witness}]"


def test_every_rollout_but_the_first_is_of_the_policy_one_step_before(policy: Path, tmp_path: Path) -> None:
    cli = run("fit", policy, tmp_path, *OPTIONS, *AHEAD, WITNESS)
    witness = next(callback for callback in cli.trainer.callbacks if type(callback).__name__ == "Witness")
    assert isinstance(witness.sampler, SamplerProcess)
    rollout = find_callback(cli.trainer, RolloutCallback)
    tokenizer = cli.datamodule.tokenizer
    config = cli.model.policy.causal_lm.config
    for step, batch in enumerate(witness.batches):
        sampled_by = max(0, step - 1)
        sampler = TransformersSampler([tokenizer.eos_token_id], tokenizer.pad_token_id, config=config)
        sampler.receive(witness.weights[sampled_by].items())
        seed = sampling_seed(rollout.seed, ("train", step), rank=0)
        expected = sampler.generate(batch.prompts, rollout.sampling, seed)
        assert all(torch.equal(a, b) for a, b in zip(batch.completions, expected, strict=True)), step
        assert witness.logged[step]["sampler/staleness"] == step - sampled_by
    gaps = [logged["sampler/gap_mean"] for logged in witness.logged]
    assert gaps[0] < 1e-5
    assert min(gaps[1:]) > 1e-4  # the policy has moved on, and the weights correct for it
    assert all(logged["sampler/importance_weight"] != 1.0 for logged in witness.logged[1:])


def test_vllm_samples_ahead_and_gets_adapters_alone(policy: Path, tmp_path: Path) -> None:
    """Real vLLM in a process of its own; the self-test proves after each sync that the adapters arrived."""
    cli = run(
        "fit",
        policy,
        tmp_path,
        *OPTIONS,
        *AHEAD,
        WITNESS,
        "--rollout.sampler=vllm",
        "--rollout.engine.max_model_len=64",
        "--rollout.engine.kv_cache_gib=0.125",
        "--rollout.engine.lora_adapters=true",
        "--model.policy.lora.rank=4",
    )
    witness = next(callback for callback in cli.trainer.callbacks if type(callback).__name__ == "Witness")
    sent = witness.sampler.last_sync.sent
    assert sent
    assert all(".lora_" in name for name in sent)
    assert max(logged["sampler/sync_gap"] for logged in witness.logged) < 1e-4
    assert [logged["sampler/staleness"] for logged in witness.logged] == [0, 1, 1, 1]
    moved = [witness.weights[step]["model.layers.0.self_attn.q_proj.weight"] for step in (0, -1)]
    assert not torch.equal(*moved)


def test_stale_rollouts_without_a_correction_are_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is_correction to truncate or mask"):
        run("fit", policy, tmp_path, *OPTIONS, "--trainer.callbacks=null", "--one_step_off.enabled=true")


def test_a_validation_between_two_steps_waits_for_the_rollout_and_uses_the_new_weights(
    policy: Path, tmp_path: Path
) -> None:
    """The training does not notice: what was sampled ahead is what it would have been."""
    runs = [
        run("fit", policy, tmp_path / name, *OPTIONS, *AHEAD, "--trainer.callbacks=null", *options)
        for name, options in {
            "without": [],
            "with": ["--trainer.val_check_interval=2", "--data.val=[{split: test, limit: 3}]"],
        }.items()
    ]
    without, with_validation = (cli.model.policy.state_dict() for cli in runs)
    assert all(torch.equal(without[name], with_validation[name]) for name in without)
    assert "val/average" in runs[1].trainer.callback_metrics
