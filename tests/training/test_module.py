"""A training step: the same update however it is cut, one step of θ and one of λ, and nothing for the rest."""

from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch

from lambda_grpo_pl.objective import AdvantageConfig, PreferenceConfig, SurrogateConfig
from lambda_grpo_pl.policy import LoraSettings, PolicyConfig
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.scored import ScoredData, save_tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny"))


def fit(
    folder: Path, steps: int = 3, accelerator: str = "cpu", precision: str = "32-true", **sections: object
) -> LambdaGRPO:
    """Train on fixed scored batches; returns the module after the fit, on the CPU."""
    policy = sections.pop("policy", None) or PolicyConfig(path=str(folder))
    settings: dict = {
        "preference": PreferenceConfig(lr=10.0),
        "optimizer": OptimizerConfig(lr=1e-3),
        **sections,
    }
    module = LambdaGRPO(policy, **settings)
    trainer = L.Trainer(
        max_steps=steps * module.updates.per_rollout,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ScoredData(steps))
    assert trainer.global_step == steps * module.updates.per_rollout
    return module.cpu()


def assert_same(one: LambdaGRPO, other: LambdaGRPO, tolerance: float = 2e-5) -> None:
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def test_micro_batch_size_changes_nothing(folder: Path) -> None:
    whole = fit(folder)
    split = fit(folder, policy=PolicyConfig(path=str(folder), tokens_per_micro_batch=20, head_chunk=3))
    assert_same(whole, split)
    assert whole.preference.lam.item() != 0.0


@pytest.mark.parametrize("packing", ["packed", "shared_prefix", "padded"])
def test_layout_changes_nothing(folder: Path, packing: str) -> None:
    assert_same(fit(folder), fit(folder, policy=PolicyConfig(path=str(folder), packing=packing)))


def test_skipping_rows_without_advantage_changes_nothing(folder: Path) -> None:
    assert_same(
        fit(folder, objective=ObjectiveConfig(skip_zero_advantage=True)),
        fit(folder, objective=ObjectiveConfig(skip_zero_advantage=False)),
    )


def test_mixed_precision_keeps_the_weights_and_the_objective_in_float32(folder: Path) -> None:
    """λ's slope is the sum of float32 surrogates, so bfloat16 arithmetic moves λ almost as float32 does."""
    full, mixed = fit(folder), fit(folder, precision="bf16-mixed")
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    assert mixed.preference.lam.item() == pytest.approx(full.preference.lam.item(), rel=0.05)
    assert not torch.equal(full.policy.model.lm_head.weight, mixed.policy.model.lm_head.weight)


def test_true_half_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit(folder, precision="bf16-true")


def test_gradient_checkpointing_changes_nothing(folder: Path) -> None:
    assert_same(fit(folder), fit(folder, policy=PolicyConfig(path=str(folder), gradient_checkpointing=True)))


def test_the_sequence_level_path_equals_the_token_level_path_where_they_agree(folder: Path) -> None:
    """On-policy every ratio is 1 with the gradient of its mean: GSPO's gradient is then the token-level one."""
    token = fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig()))
    sequence = fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig(ratio_level="sequence")))
    assert_same(token, sequence, tolerance=3e-4)


@pytest.mark.parametrize(
    "preference",
    [
        PreferenceConfig(family="uniform", learn="fixed"),
        PreferenceConfig(family="grpo", learn="fixed"),
        PreferenceConfig(family="dr_grpo", learn="fixed"),
        PreferenceConfig(family="delta_l", learn="fixed"),
        PreferenceConfig(family="linear"),
        PreferenceConfig(family="relative_power"),
        PreferenceConfig(contextual=True),
    ],
    ids=lambda p: p.family + "-" + p.learn,
)
def test_every_family_trains(folder: Path, preference: PreferenceConfig) -> None:
    before = fit(folder, steps=1, preference=PreferenceConfig(family="uniform", learn="fixed"))
    after = fit(folder, preference=replace(preference, lr=1.0))
    moved = any(
        not torch.equal(a, b) for a, b in zip(before.policy.parameters(), after.policy.parameters(), strict=True)
    )
    assert moved
    assert (after.preference.lam.item() != 0.0) == (preference.learn != "fixed")


def test_several_updates_clip_against_the_sampling_policy(folder: Path) -> None:
    once, twice = fit(folder), fit(folder, updates=UpdateConfig(num_epochs=2, num_minibatches=2))
    assert not torch.equal(once.policy.model.lm_head.weight, twice.policy.model.lm_head.weight)


def test_the_first_of_several_updates_is_the_on_policy_update(folder: Path) -> None:
    """Old log-probabilities are the policy's own before the first step, so ρ = 1 whether they are computed or not."""
    module = fit(folder, steps=1, updates=UpdateConfig(num_epochs=1))
    plan = fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=1e-9)))
    assert_same(module, plan)


def test_the_kl_term_pulls_towards_the_reference(folder: Path) -> None:
    """A large β leaves the policy nearer to the reference, which is in no state dict."""

    def kl_after(beta: float) -> float:
        objective = ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=beta))
        module = fit(folder, steps=20, optimizer=OptimizerConfig(lr=3e-4), objective=objective)
        assert not any(name.startswith("_reference") for name in module.state_dict())
        return float(module.trainer.callback_metrics["policy/reference_kl"])

    assert kl_after(100.0) < 0.5 * kl_after(1e-6)


def test_lora_trains_adapters_only_and_is_its_own_reference(folder: Path) -> None:
    policy = PolicyConfig(path=str(folder), lora=LoraSettings(rank=4))
    module = fit(folder, policy=policy, objective=ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.1)))
    trained = [name for name, p in module.policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(p.abs().sum() > 0 for name, p in module.policy.named_parameters() if "lora_B" in name)


def test_batch_scaled_advantages_use_the_whole_batch(folder: Path) -> None:
    group = fit(folder)
    batch = fit(folder, objective=ObjectiveConfig(advantage=AdvantageConfig(scale="batch")))
    assert not torch.allclose(group.policy.model.lm_head.weight, batch.policy.model.lm_head.weight)


def test_mini_batches_that_do_not_divide_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="num_minibatches = 3"):
        fit(folder, updates=UpdateConfig(num_minibatches=3))
