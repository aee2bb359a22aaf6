"""A training step: the same update however it is split, one step of θ and one of λ per update, all of them logged."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.callbacks.metric_names import find_metric
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import (
    AdvantageConfig,
    CorrelationConfig,
    LengthCorrelation,
    LengthPreference,
    LensConfig,
    PreferenceConfig,
    SurrogateConfig,
    compute_advantages,
    context_features,
    count_tokens,
    lens_sums,
    lens_values,
    preference_objective,
    preference_statistics,
)
from lambda_grpo_pl.policy import LoraSettings, PolicyConfig
from lambda_grpo_pl.training import module as module_file
from lambda_grpo_pl.training import weighting
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig, check_precision
from lambda_grpo_pl.training.module import LambdaGRPO
from lambda_grpo_pl.training.update import Gradient, Rollout
from tests.scored import ScoredData, random_policy, save_tiny_policy, scored_batch


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
    return train(LambdaGRPO(policy, **settings), steps, accelerator, precision)


def train(module: LambdaGRPO, steps: int, accelerator: str = "cpu", precision: str = "32-true") -> LambdaGRPO:
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


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "16-mixed", "64-true", "transformer-engine"])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(UserError, match=rf"trainer\.precision is {precision}: set it to bf16-mixed"):
        check_precision(precision)


def test_setup_refuses_precisions_and_strategies_before_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(module_file, "load_policy", lambda path, *_: loaded.append(path))
    with pytest.raises(UserError, match="bf16-mixed"):
        fit(folder, precision="bf16-true")
    module = LambdaGRPO(PolicyConfig(path=str(folder)))
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(L.Trainer, "strategy", FSDPStrategy())
    with pytest.raises(UserError, match=r"trainer\.strategy"):
        module.setup("fit")
    monkeypatch.setattr(L.Trainer, "strategy", ModelParallelStrategy())
    monkeypatch.setattr(ModelParallelStrategy, "root_device", torch.device("cuda", 0))
    module.policy_config.sharding.cpu_offload = True
    with pytest.raises(UserError, match=r"process_group_backend is nccl"):
        module.setup("fit")
    assert not loaded


@pytest.mark.parametrize(
    ("precision", "learn", "heldout", "computed", "gathered"),
    [
        ("32-true", "surrogate", None, torch.float32, None),
        ("bf16-mixed", "surrogate", None, torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", "validation", None, torch.bfloat16, None),
        ("bf16-mixed", "surrogate", "held-out prompts", torch.bfloat16, None),
    ],
)
def test_weights_are_loaded_and_gathered_in_the_type_that_computes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    learn: Literal["surrogate", "validation"],
    heldout: str | None,
    computed: torch.dtype,
    gathered: torch.dtype | None,
) -> None:
    """The virtual step on held-out prompts is taken in float32, so its shards are gathered as they are stored.

    FSDP2 loads on the CPU, but the GPU's kernels are checked: those train.
    """
    asked: list[tuple] = []
    monkeypatch.setattr(module_file, "load_policy", lambda *arguments: asked.append(arguments) or random_policy())
    monkeypatch.setattr(module_file, "load_reference", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(module_file, "shard_policies", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(LambdaGRPO, "device_mesh", "the mesh")
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", torch.device("cuda", 1))
    config = PolicyConfig(path=str(folder), reference_path="other")
    objective = ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.1))
    module = LambdaGRPO(config, PreferenceConfig(learn=learn), objective, temperature=0.7)
    module.trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    module.trainer.datamodule = SimpleNamespace(heldout_source=heldout)
    module.configure_model()
    assert asked == [
        (str(folder), config, 0.7, computed, True, torch.device("cuda", 1)),
        ("other", config, 0.7, computed, module.policy.layouts, True, torch.device("cuda", 1)),
        (module.policy, [None], "the mesh", config.sharding, gathered),
    ]
    module.configure_model()
    assert len(asked) == 3, "Lightning calls it for every stage; weights are loaded once"


def test_defaults() -> None:
    """What Python users get who do not link the module to a rollout section."""
    module = LambdaGRPO(PolicyConfig(path="any"))
    assert (module.temperature, module.preference.config.max_length) == (1.0, None)
    assert (module.preference.config.family, module.updates.per_rollout) == ("power_softmax", 1)
    own = PreferenceConfig(max_length=40)
    assert LambdaGRPO(PolicyConfig(path="any"), own, max_response_tokens=90).preference.config.max_length == 40


@pytest.mark.parametrize(("device", "budget"), [("cpu", 2048), ("cuda", 16384)])
def test_the_device_decides_how_many_tokens_a_micro_batch_has(
    monkeypatch: pytest.MonkeyPatch, device: str, budget: int
) -> None:
    monkeypatch.setattr(LambdaGRPO, "device", torch.device(device))
    assert LambdaGRPO(PolicyConfig(path="any")).token_budget == budget
    assert LambdaGRPO(PolicyConfig(path="any", tokens_per_micro_batch=99)).token_budget == 99


def test_ranks_agree_on_passes_and_exchange_gradients_as_the_strategy_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged: list[tuple] = []
    monkeypatch.setattr(module_file, "sync_gradients", lambda *arguments: exchanged.append(arguments))
    reduced = {"max": 5, "sum": torch.tensor(7)}
    monkeypatch.setattr(SingleDeviceStrategy, "reduce", lambda self, values, reduce_op="mean": reduced[reduce_op])
    module = LambdaGRPO(PolicyConfig(path=str(folder), tokens_per_micro_batch=30))
    module.trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    passes = module._passes()
    assert (passes.budget, passes.agree(3), passes.total(torch.tensor(4))) == (30, 5, 7)
    passes.sync(True)
    assert exchanged == [(module.trainer.strategy, True)]


def test_the_reference_moves_to_the_policys_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not a submodule, so Lightning does not move it."""
    module, moved = LambdaGRPO(PolicyConfig(path="any")), []
    monkeypatch.setattr(LambdaGRPO, "device", torch.device("cuda", 1))
    module._reference = [SimpleNamespace(to=moved.append)]  # type: ignore[list-item]
    module.on_fit_start()
    assert moved == [torch.device("cuda", 1)]


def test_gradient_checkpointing_changes_nothing(folder: Path) -> None:
    assert_same(fit(folder), fit(folder, policy=PolicyConfig(path=str(folder), gradient_checkpointing=True)))


def test_the_sequence_level_path_equals_the_token_level_path_where_they_agree(folder: Path) -> None:
    """On-policy every ratio is 1 with the gradient of its mean: GSPO's gradient is then the token-level one."""
    token = fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig()))
    sequence = fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig(ratio_level="sequence")))
    assert_same(token, sequence, tolerance=3e-4)


class Call(NamedTuple):
    """One call of `accumulate_gradient` during a fit."""

    rollout: Rollout
    rows: Tensor
    weights: Tensor
    gradient: Gradient
    policy: list[Tensor]
    """The weights it started from."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What each update of a fit computed its gradient from, and what came out."""
    noted: list[Call] = []
    real = module_file.accumulate_gradient

    def note(policy, rollout, rows, weights, config, passes) -> Gradient:
        before = [parameter.detach().clone() for parameter in policy.parameters()]
        gradient = real(policy, rollout, rows, weights, config, passes)
        noted.append(Call(rollout, rows, weights.clone(), gradient, before))
        return gradient

    monkeypatch.setattr(module_file, "accumulate_gradient", note)
    return noted


@pytest.mark.parametrize(
    "preference",
    [
        PreferenceConfig(family="uniform", learn="fixed"),
        PreferenceConfig(family="grpo", learn="fixed"),
        PreferenceConfig(family="dr_grpo", learn="fixed"),
        PreferenceConfig(family="delta_l", learn="fixed"),
        PreferenceConfig(learn="fixed", init=2.0),
        PreferenceConfig(family="linear", lr=1.0),
        PreferenceConfig(family="relative_power", lr=1.0),
        PreferenceConfig(contextual=True, lr=1.0),
        PreferenceConfig(family="batch_power", lr=1.0),
        PreferenceConfig(family="balanced", learn="fixed"),
    ],
    ids=lambda preference: preference.family + "-" + preference.learn,
)
@pytest.mark.parametrize("token_count", ["global", "group"])
def test_every_family_weighs_the_policy_gradient_and_lambda_ascends(
    folder: Path, calls: list[Call], preference: PreferenceConfig, token_count: str
) -> None:
    """The first update starts at λ = init: its weights are f(init) / Z, and λ moves by lr · dJ/dλ."""
    objective = ObjectiveConfig(token_count=token_count)
    module = fit(folder, steps=1, preference=preference, objective=objective, max_response_tokens=40)
    groups = Groups.of(scored_batch(0))
    count = count_tokens(groups.lengths, groups.active, token_count)
    config = PreferenceConfig(**(vars(preference) | {"max_length": 40, "contextual": False}))
    expected = LengthPreference(config)
    f = expected(groups.lengths, count.mean_length, advantages=compute_advantages(groups.rewards, AdvantageConfig()))
    (call,) = calls
    torch.testing.assert_close(call.weights, (f / count.denominator).flatten().float())
    assert any(not torch.equal(a, b) for a, b in zip(module.policy.parameters(), call.policy, strict=True))
    change = 0.0
    if preference.learn != "fixed":
        surrogates = call.gradient.surrogates.view(4, 4)
        slope = (expected.derivative(groups.lengths, count.mean_length) * surrogates / count.denominator).sum()
        change = preference.lr * float(slope)
        assert abs(change) > 1e-6
    assert module.preference.lam.item() == pytest.approx(preference.init + change, rel=1e-3, abs=1e-9)
    prompt_mean = preference.family == "uniform" and token_count == "group"
    name = "prompt_mean" if prompt_mean else expected.method_name + "_contextual" * preference.contextual
    assert module.method_name == name


def test_old_logprobs_are_those_before_the_first_of_several_updates(folder: Path, calls: list[Call]) -> None:
    """So the first update has ρ = 1, and the second measures its ratio against the same fixed numbers."""
    fit(folder, steps=1, updates=UpdateConfig(num_epochs=2), optimizer=OptimizerConfig(lr=0.01))
    first, second = calls
    assert first.rollout.old is not None
    assert second.rollout.old is first.rollout.old
    for name in ("ratio_min", "ratio_max"):
        assert first.gradient.totals[name].item() == pytest.approx(1.0, abs=1e-5)
    assert second.gradient.totals["ratio_max"] > 1.01
    assert second.gradient.totals["ratio_min"] < 0.99
    fit(folder, steps=1, updates=UpdateConfig(num_epochs=1), optimizer=OptimizerConfig(lr=0.01))
    on_policy = calls[2:]
    assert on_policy[0].rollout.old is None
    torch.testing.assert_close(on_policy[0].gradient.surrogates, first.gradient.surrogates)


def test_each_update_starts_with_no_gradient(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate of almost 0, two updates with the same rows have the same gradient, not twice as much."""
    norms = noted(monkeypatch, "clip_gradient")
    same = PreferenceConfig(family="uniform", learn="fixed")
    tiny = OptimizerConfig(lr=1e-12, max_grad_norm=1e9)
    fit(folder, steps=1, updates=UpdateConfig(num_epochs=2), optimizer=tiny, preference=same)
    assert norms[0] > 0
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-3, atol=0)


def test_several_updates_clip_against_the_old_policy(folder: Path, calls: list[Call]) -> None:
    """With a large step the second update is clipped, which changes it; with the clip wide open nothing is."""
    settings = {"steps": 1, "updates": UpdateConfig(num_epochs=2), "optimizer": OptimizerConfig(lr=0.03)}
    clipped = fit(folder, **settings)
    wide = ObjectiveConfig(surrogate=SurrogateConfig(clip_low=1.0, clip_high=1e6))
    free = fit(folder, objective=wide, **settings)
    number = [int(call.gradient.totals["clip_low"] + call.gradient.totals["clip_high"]) for call in calls]
    assert number[0] == number[2] == number[3] == 0
    assert number[1] > 3
    assert all(torch.equal(a, b) for a, b in zip(calls[1].policy, calls[3].policy, strict=True))
    assert not torch.equal(clipped.policy.model.lm_head.weight, free.policy.model.lm_head.weight)


def test_mini_batches_split_the_prompts_and_count_their_own_tokens(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step returns the rows of its last mini-batch with their f, here 1."""
    returned: list[dict[str, Tensor]] = []
    real = LambdaGRPO.training_step

    def training_step(self: LambdaGRPO, batch: RolloutBatch, batch_idx: int) -> dict[str, Tensor]:
        returned.append(real(self, batch, batch_idx))
        return returned[-1]

    monkeypatch.setattr(LambdaGRPO, "training_step", training_step)
    sections = {
        "updates": UpdateConfig(num_epochs=2, num_minibatches=2),
        "preference": PreferenceConfig(family="uniform", learn="fixed"),
        "objective": ObjectiveConfig(skip_zero_advantage=False),
    }
    fit(folder, steps=1, **sections)
    assert [call.rows.tolist() for call in calls] == 2 * [list(range(8)), list(range(8, 16))]
    lengths = scored_batch(0).sampled().lengths
    for call in calls[:2]:
        weights = call.weights[call.rows]
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / float(lengths[call.rows].sum())))
        assert not call.weights[~torch.isin(torch.arange(16), call.rows)].any()
    assert returned[0]["rows"].tolist() == torch.arange(8, 16).view(2, 4).tolist()
    assert returned[0]["weights"].tolist() == [[1.0] * 4] * 2
    assert returned[0]["f"].flatten().tolist() == [1.0] * 16, "all rows, each as its last update weighed it"
    last = calls[2].gradient.surrogates + calls[3].gradient.surrogates
    torch.testing.assert_close(returned[0]["surrogates"].flatten(), last)


def test_rows_without_advantage_are_skipped_unless_a_kl_term_needs_them(folder: Path, calls: list[Call]) -> None:
    fit(folder, steps=1)
    fit(folder, steps=1, objective=ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.1)))
    assert calls[0].rows.tolist() == calls[0].rollout.advantages.nonzero().flatten().tolist()
    assert len(calls[0].rows) < 16
    assert calls[1].rows.tolist() == list(range(16))
    assert calls[1].rollout.reference is not None


def test_all_updates_of_a_rollout_are_logged_once(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over the four updates, extremes, and means in which every token has the same weight."""
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(LambdaGRPO, "log_dict", lambda self, values, **_: logged.append(values))
    norms = noted(monkeypatch, "clip_gradient")
    shares = noted(monkeypatch, "preference_statistics", weighting)
    updates, optimizer = UpdateConfig(num_epochs=2, num_minibatches=2), OptimizerConfig(lr=0.01, warmup_steps=4)
    module = fit(folder, steps=1, updates=updates, optimizer=optimizer)
    (values,) = logged
    totals = [call.gradient.totals for call in calls]
    tokens = sum(int(total["num_tokens"]) for total in totals)
    assert len({int(total["num_tokens"]) for total in totals}) > 1, "equal weights would pass"
    assert values["policy/trained_tokens"] == tokens
    assert values["train/model_tokens"] == sum(call.gradient.num_tokens for call in calls)
    assert values["policy/entropy"] == pytest.approx(sum(float(total["entropy"]) for total in totals) / tokens)
    assert values["policy/clip_low"] == pytest.approx(sum(float(total["clip_low"]) for total in totals) / tokens)
    assert values["policy/shift_from_old"] == pytest.approx(
        sum(float(total["policy_shift"]) for total in totals) / tokens
    )
    assert values["policy/ratio_max"] == max(float(total["ratio_max"]) for total in totals)
    assert values["policy/ratio_min"] == min(float(total["ratio_min"]) for total in totals)
    assert values["sampler/gap_max"] == max(float(total["sampler_gap_max"]) for total in totals)
    assert values["policy/gradient_norm"] == pytest.approx(sum(float(norm) for norm in norms) / 4)
    assert values["policy/learning_rate"] == pytest.approx(0.01), "the last update's"
    losses = [-float((call.weights * call.gradient.surrogates).sum()) for call in calls]
    assert values["policy/loss"] == pytest.approx(sum(losses) / 4, rel=1e-3)
    assert abs(sum(losses)) > 1e-3
    for name in ("ess", "f_max", "length_correct"):
        assert values[f"preference/{name}"] == pytest.approx(sum(float(share[name]) for share in shares) / 4)
    assert values["preference/lambda"] == pytest.approx(float(shares[-1]["lambda"]))
    change = module.preference.lam.item()
    assert values["preference/slope"] == pytest.approx(change / (4 * module.preference.config.lr))


def test_inactive_responses_have_no_part_in_an_update(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """f, Z, φ's moments, both gradients and the dashboard are the active responses'; the last prompt has none."""
    batch = scored_batch(0)
    batch.scored().active[[1, 4, 6, 12, 13, 14, 15]] = False
    batch.scored().correct[:] = torch.arange(16) % 3 == 0
    monkeypatch.setattr("tests.scored.scored_batch", lambda *_, **__: batch)
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(LambdaGRPO, "log_dict", lambda self, values, **_: logged.append(values))
    config = PreferenceConfig(contextual=True, init=1.0, lr=0.5, min_ess=0.1)
    expected, w = LengthPreference(config), torch.tensor([0.3, -0.2, 0.4, 0.1])
    module = LambdaGRPO(PolicyConfig(path=str(folder)), config, optimizer=OptimizerConfig(lr=1e-3))
    for preference in (module.preference, expected):
        preference.w.data.copy_(w)
    train(module, steps=1)

    groups, (call,) = Groups.of(batch), calls
    count = count_tokens(groups.lengths, groups.active)
    features = context_features(groups.rewards, groups.lengths, groups.prompt_lengths, groups.active)
    expected.update_moments(features, active=groups.active)
    for name, moment in expected.moments.named_buffers():
        torch.testing.assert_close(module.preference.moments.get_buffer(name), moment)
    f = expected(groups.lengths, count.mean_length, groups.active, features).detach()
    assert (f[:3].amax(1) - f[:3].amin(1) > 0.1).all()
    torch.testing.assert_close(call.weights, (f / count.denominator).flatten().float())
    assert not call.weights.requires_grad
    advantages = call.rollout.advantages.view(4, 4)
    assert call.rows.tolist() == groups.rows[groups.active & (advantages != 0)].tolist()
    statistics = preference_statistics(
        expected, f, groups.lengths, advantages, groups.correct, count, groups.active, features
    )
    surrogates = call.gradient.surrogates.view(4, 4)
    slopes = torch.autograd.grad(
        preference_objective(expected, surrogates, groups.lengths, count, groups.active, features),
        [expected.lam, expected.w],
    )
    for name, value in (statistics | {"slope": slopes[0]}).items():
        assert logged[0][f"preference/{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-7), name
    torch.testing.assert_close(module.preference.lam, 1 + 0.5 * slopes[0])
    torch.testing.assert_close(module.preference.w, w + 0.5 * slopes[1])
    assert slopes[1].abs().max() > 1e-5


def test_two_ranks_that_hold_the_same_learn_what_one_does(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Z and λ's gradient are sums over ranks, so each rank's share of f / Z is half, and the loss undoes the mean."""
    sections = {"steps": 1, "preference": PreferenceConfig(lr=10.0, contextual=True)}
    alone = fit(folder, **sections)
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    monkeypatch.setattr(
        SingleDeviceStrategy, "reduce", lambda self, values, reduce_op="mean": values * (2 if reduce_op == "sum" else 1)
    )
    monkeypatch.setattr("tests.scored._Batches.__getitem__", lambda self, index: scored_batch(index))
    both = fit(folder, **sections)
    assert_same(alone, both)
    torch.testing.assert_close(2 * calls[1].weights, calls[0].weights)
    moments, doubled = alone.preference.moments, both.preference.moments
    assert (moments.count, doubled.count) == (4, 8)
    torch.testing.assert_close(doubled.mean, moments.mean)
    torch.testing.assert_close(doubled.variance, moments.variance)


def noted(monkeypatch: pytest.MonkeyPatch, name: str, place: ModuleType = module_file) -> list:
    """Results of one of the functions that the module, or another file, calls."""
    results: list = []
    real: Callable = getattr(place, name)

    def note(*arguments: object) -> object:
        results.append(real(*arguments))
        return results[-1]

    monkeypatch.setattr(place, name, note)
    return results


def test_the_validation_rule_steps_lambda_by_the_alignments(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """dJ/dλ is Σ f' T / Z with the alignments T in place of S; without a held-out batch λ rests."""
    aligned = noted(monkeypatch, "alignments")
    preference = PreferenceConfig(learn="validation", lr=1e3)
    module = fit(folder, steps=1, preference=preference)
    assert module.preference.lam.item() == 0.0
    monkeypatch.setattr("tests.scored.scored_batch", with_heldout)
    module = fit(folder, steps=1, preference=preference)
    groups = Groups.of(scored_batch(0))
    count = count_tokens(groups.lengths, groups.active)
    derivative = LengthPreference(preference).derivative(groups.lengths, count.mean_length)
    slope = (derivative * aligned[0].view(4, 4) / count.denominator).sum()
    assert abs(float(slope)) > 1e-7
    assert module.preference.lam.item() == pytest.approx(float(slope) * 1e3, rel=1e-3)
    assert calls[-1].rollout.old is None, "one update is on-policy, with a held-out batch too"


@pytest.mark.parametrize(
    ("family", "level", "name"),
    [("grpo", "sequence", "gspo"), ("dr_grpo", "sequence", "luspo"), ("uniform", "sequence", "dapo_sequence")],
)
def test_a_ratio_per_response_is_another_method(folder: Path, family: str, level: str, name: str) -> None:
    objective = ObjectiveConfig(surrogate=SurrogateConfig(ratio_level=level))
    preference = PreferenceConfig(family=family, learn="fixed", max_length=8)
    assert LambdaGRPO(PolicyConfig(path=str(folder)), preference, objective).method_name == name


CORRELATION = PreferenceConfig(family="batch_power", learn="correlation", correlation=CorrelationConfig(high=1.0))


def test_the_correlation_rule_weighs_each_update_by_what_it_shows(
    folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mini-batches in two rollouts: λ of each update by hand, in its weights and in the log; no optimizer."""
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(LambdaGRPO, "log_dict", lambda self, values, **_: logged.append(values))
    module = fit(folder, steps=2, preference=CORRELATION, updates=UpdateConfig(num_minibatches=2))
    rule, lambdas = LengthCorrelation(CORRELATION.correlation), []
    for number, call in enumerate(calls):
        half = slice(2 * (number % 2), 2 * (number % 2) + 2)
        groups = Groups.of(scored_batch(number // 2), half)
        lambdas.append(rule.update(groups.lengths, call.rollout.advantages.view(4, 4)[half]).item())
        powers = groups.lengths.double() ** lambdas[-1]
        f = powers * powers.numel() / powers.sum()
        torch.testing.assert_close(call.weights[groups.rows], (f / groups.lengths.sum()).float())
    assert len({round(lam, 6) for lam in lambdas}) > 2, "a λ that never moves would pass"
    assert [values["preference/lambda"] for values in logged] == pytest.approx([lambdas[1], lambdas[3]])
    assert logged[-1]["preference/correlation"] == pytest.approx(rule.value.item())
    assert "preference/slope" not in logged[0]
    assert len(module.trainer.optimizers) == 1


def test_only_training_reads_the_placebos_file(folder: Path, tmp_path: Path) -> None:
    preference = PreferenceConfig(family="relative_power", learn="placebo", placebo=str(tmp_path / "gone.csv"))
    module = LambdaGRPO(PolicyConfig(path=str(folder)), preference=preference)
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.setup("validate")
    with pytest.raises(UserError, match=r"model\.preference\.placebo"):
        module.setup("fit")


def test_the_placebo_rule_takes_lambda_from_a_runs_metrics(folder: Path, calls: list[Call], tmp_path: Path) -> None:
    """Update t is weighed by the λ that the file has for it."""
    file = tmp_path / "metrics.csv"
    file.write_text("update,preference/lambda,step\n1,-0.5,0\n2,,1\n2,0.75,1\n")
    preference = PreferenceConfig(family="relative_power", learn="placebo", placebo=str(file))
    fit(folder, steps=2, preference=preference)
    for index, lam in enumerate((-0.5, 0.75)):
        lengths = scored_batch(index).sampled().lengths.view(4, 4).double()
        f = lengths**lam / (lengths**lam).mean(-1, keepdim=True)
        torch.testing.assert_close(calls[index].weights, (f / lengths.sum()).flatten().float())
    with pytest.raises(UserError, match=r"ends at update 2, but trainer\.max_steps is 3"):
        fit(folder, steps=3, preference=preference)


def test_the_lens_looks_at_all_updates_of_a_rollout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average over both updates; own weights are f / Z of each."""
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(LambdaGRPO, "log_dict", lambda self, values, **_: logged.append(values))
    lens = LensConfig(methods=["grpo", "balanced"])
    preference = PreferenceConfig(family="delta_l", learn="fixed")
    fit(folder, steps=1, preference=preference, lens=lens, updates=UpdateConfig(num_minibatches=2))
    parts = []
    for half in (slice(0, 2), slice(2, 4)):
        groups = Groups.of(scored_batch(0), half)
        count = count_tokens(groups.lengths, groups.active)
        own = LengthPreference(preference)(groups.lengths, count.mean_length) / count.denominator
        advantages = compute_advantages(groups.rewards, AdvantageConfig())
        parts.append(lens_values(lens, lens_sums(lens, own, groups.lengths, advantages, groups.active)))
    expected = {f"lens/{name}": (value.item() + parts[1][name].item()) / 2 for name, value in parts[0].items()}
    seen = {name: value for name, value in logged[0].items() if name.startswith("lens/")}
    assert seen == pytest.approx(expected, rel=1e-5)
    assert len(seen) == 3 * 4
    assert all(find_metric(name) for name in seen)
    fit(folder, steps=1, lens=LensConfig(methods=[]))
    assert not [name for name in logged[1] if name.startswith("lens/")]


def test_held_out_prompts_show_gains_and_change_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Call]
) -> None:
    """Under a rule that does not read them: the same policy and λ, one virtual step, the gain in the log."""
    settings: dict = {"steps": 1, "updates": UpdateConfig(num_epochs=2), "preference": CORRELATION}
    plain = fit(folder, **settings)
    aligned = noted(monkeypatch, "alignments")
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(LambdaGRPO, "log_dict", lambda self, values, **_: logged.append(values))
    monkeypatch.setattr("tests.scored.scored_batch", with_heldout)
    looked = fit(folder, **settings)
    for (name, ours), other in zip(looked.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, other), name
    (alignment,) = aligned
    groups = Groups.of(scored_batch(0))
    advantages = calls[0].rollout.advantages.view(4, 4)
    assert (alignment != 0).any()
    gain = (alignment.view(4, 4) / groups.lengths).sum() / advantages.abs().sum()
    assert logged[0]["lens/grpo/gain"] == pytest.approx(float(gain), rel=1e-5)
    assert logged[0]["lens/grpo/gain_low"] < logged[0]["lens/grpo/gain"] < logged[0]["lens/grpo/gain_high"]
    assert all(find_metric(name) for name in logged[0])


def with_heldout(index: int, *arguments: object, **settings: object):
    batch = scored_batch(index, *arguments, **settings)
    batch.heldout = scored_batch(50 + index)
    return batch


def test_lambda_stops_at_its_bound_and_says_so(folder: Path) -> None:
    preference = PreferenceConfig(lr=1e6, bound=0.5)
    with pytest.warns(UserWarning, match=r"λ has reached its bound of 0\.5.*model\.preference\.lr"):
        module = fit(folder, steps=1, preference=preference)
    assert abs(module.preference.lam.item()) == 0.5


def test_the_kl_term_pulls_towards_the_reference(folder: Path) -> None:
    """A large β leaves the policy nearer to the reference, which is in no state dict."""

    def kl_after(beta: float) -> float:
        objective = ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=beta))
        module = fit(folder, steps=20, optimizer=OptimizerConfig(lr=3e-4), objective=objective)
        assert not any(name.startswith("_reference") for name in module.state_dict())
        return float(module.trainer.callback_metrics["policy/reference_kl"])

    assert kl_after(100.0) < 0.5 * kl_after(1e-6)


def test_lora_trains_adapters_only_and_is_its_own_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_file, "load_reference", lambda *_: pytest.fail("a second model"))
    policy = PolicyConfig(path=str(folder), lora=LoraSettings(rank=4))
    module = fit(folder, policy=policy, objective=ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.1)))
    trained = [name for name, p in module.policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(p.abs().sum() > 0 for name, p in module.policy.named_parameters() if "lora_B" in name)


def test_batch_scaled_advantages_use_the_whole_batch(folder: Path, calls: list[Call]) -> None:
    fit(folder, steps=1, objective=ObjectiveConfig(advantage=AdvantageConfig(scale="batch")))
    rewards = scored_batch(0).scored().total.view(4, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + 1e-6)
    torch.testing.assert_close(calls[0].rollout.advantages.view(4, 4), expected)
    assert not torch.allclose(rewards.std(1)[1:], rewards.std()), "the group's std would pass"


def test_mini_batches_that_do_not_divide_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.updates\.num_minibatches.*set data\.batch_size"):
        fit(folder, updates=UpdateConfig(num_minibatches=3))


def test_evaluation_gets_the_scored_batch_and_prediction_the_batch(folder: Path) -> None:
    module, batch = LambdaGRPO(PolicyConfig(path=str(folder))), scored_batch(0)
    for step in (module.validation_step, module.test_step):
        output = step(batch, 0)
        assert output["completions"] is batch.sampled()
        assert output["rewards"] is batch.scored()
    assert module.predict_step(batch, 0) is batch
