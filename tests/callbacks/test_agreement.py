"""What the command line links is checked in Python too: what samples, what reads and what trains are one policy."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from transformers import AutoTokenizer

from lambda_grpo_pl import LambdaGRPO, PolicyConfig, PreferenceConfig, PromptDataModule, RewardCallback, RolloutCallback
from lambda_grpo_pl.callbacks import HeldoutRollout, default_callbacks
from lambda_grpo_pl.callbacks.agreement import check_agreement, check_training_sampling
from lambda_grpo_pl.callbacks.context import engine
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import SamplingSettings

ROWS = [{"question": "1+1=", "answer": "2"}] * 4
GROUPS = SamplingSettings(num_samples=4, max_tokens=8)


@pytest.mark.parametrize(("key", "value", "remedy"), [("top_p", 0.9, "set it to 1.0"), ("top_k", 20, "set it to 0")])
def test_training_on_a_truncated_distribution_needs_a_correction(key: str, value: float, remedy: str) -> None:
    sampling = SamplingSettings(**{key: value})
    with pytest.raises(UserError, match=rf"rollout\.sampling\.{key} is {value}.*{remedy}.*is_correction"):
        check_training_sampling(sampling, 1.0, "none")
    check_training_sampling(sampling, 1.0, "truncate")
    check_training_sampling(SamplingSettings(temperature=0.7), 0.7, "none")


def test_another_temperature_than_the_trainers_is_refused():
    """The command line links the two; from Python, log-probabilities would silently be those of another policy."""
    with pytest.raises(UserError, match=r"samples at temperature 0\.7, but LambdaGRPO .* at 1"):
        check_training_sampling(SamplingSettings(temperature=0.7), 1.0, "truncate")


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        (SamplingSettings(num_samples=1), "num_samples is 1.*set it to 2 or more"),
        (SamplingSettings(num_samples=4, temperature=0), "temperature is 0.*set it to 1.0"),
    ],
)
def test_responses_that_cannot_be_compared_are_refused(policy: Path, sampling: SamplingSettings, sentence: str) -> None:
    module = LambdaGRPO(PolicyConfig(path=str(policy)), temperature=sampling.temperature)
    with pytest.raises(UserError, match=sentence):
        check_agreement(module, PromptDataModule(str(policy), train=ROWS), sampling)


def test_another_tokenizer_than_the_policys_is_refused(policy: Path, tmp_path: Path) -> None:
    """Its ids would mean other tokens to the policy."""
    module = LambdaGRPO(PolicyConfig(path=str(policy)))
    same = tmp_path / "same"
    shutil.copytree(policy, same)
    check_agreement(module, PromptDataModule(str(same), train=ROWS), GROUPS)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"tokenizer of .*other, but LambdaGRPO trains .*pass the same model to both"):
        check_agreement(module, PromptDataModule(str(tmp_path / "other"), train=ROWS), GROUPS)


@pytest.mark.parametrize(
    ("heldout", "every", "sentence"),
    [
        (None, 10, "no held-out prompts: set data.heldout"),
        (ROWS, 0, "no held-out batches.*set heldout.every"),
    ],
)
def test_a_rule_that_would_get_no_held_out_batches_is_refused(
    policy: Path, monkeypatch: pytest.MonkeyPatch, heldout: Any, every: int, sentence: str
) -> None:
    """λ would stay where it is, without a word."""
    monkeypatch.setattr("lambda_grpo_pl.training.module.load_policy", lambda *_: pytest.fail("weights were loaded"))
    callbacks = default_callbacks(
        rollout=RolloutCallback("transformers", GROUPS),
        reward=RewardCallback([lambda completion, example: 1.0]),
        heldout=HeldoutRollout(every),
    )
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, callbacks=callbacks, enable_model_summary=False)
    module = LambdaGRPO(PolicyConfig(path=str(policy)), PreferenceConfig(learn="validation"))
    with pytest.raises(UserError, match=sentence):
        trainer.fit(module, datamodule=PromptDataModule(str(policy), ROWS, [], heldout, batch_size=4))


@pytest.mark.parametrize(("own", "seed"), [(None, 7), (3, 3)])
def test_sampling_takes_the_seed_of_the_data(policy: Path, own: int | None, seed: int) -> None:
    data = PromptDataModule(str(policy), train=ROWS, val=[], batch_size=4, seed=7)
    data.setup("fit")
    callback = RolloutCallback("transformers", GROUPS, seed=own)
    trainer: Any = SimpleNamespace(
        datamodule=data, callbacks=[callback, RewardCallback()], precision="32-true", global_rank=0
    )
    callback.setup(trainer, LambdaGRPO(PolicyConfig(path=str(policy))), "fit")
    assert engine(trainer).run.seed == seed
