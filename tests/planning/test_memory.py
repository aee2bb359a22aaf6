"""Parts of the memory plan, their sum, and what is suggested where they do not fit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning import bfloat16
from lambda_grpo_pl.planning.advice import _offload, largest_token_budget, suggest_changes
from lambda_grpo_pl.planning.gpus import GIB, Gpu, find_gpu
from lambda_grpo_pl.planning.known_models import known_config
from lambda_grpo_pl.planning.memory import MemoryPlan, host_bytes_while_loading, plan_memory
from lambda_grpo_pl.planning.micro_batch import largest_micro_batch
from lambda_grpo_pl.planning.report import make_report
from lambda_grpo_pl.planning.run import Placement, PlannedRun, SamplingRequest
from lambda_grpo_pl.planning.sizes import measure_model
from lambda_grpo_pl.policy import LoraSettings, PolicyConfig
from lambda_grpo_pl.sampling import VllmSettings
from lambda_grpo_pl.training.offload import OFFLOAD_BACKEND

CONFIG = LlamaConfig(vocab_size=3000, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
SIZE = measure_model(CONFIG, PolicyConfig(path="random"), torch.float32)
RUN = PlannedRun(
    config=CONFIG,
    policy=PolicyConfig(path="random", tokens_per_micro_batch=512, head_chunk=64),
    placement=Placement("single", 1, 1),
    device="gpu",
    mixed_precision=True,
    training=SamplingRequest("training", 64, 40, 50),
    evaluations=(),
    num_minibatches=1,
    group_size=8,
    separate_reference=False,
    optimizer_states="float32",
    validation_rule=False,
    fused=True,
    engine=None,
)
ENGINE = VllmSettings(kv_cache_gib=0.25)


def part(plan: MemoryPlan, name: str) -> tuple[float, float, float]:
    (found,) = [part[1:4] for part in plan.parts if part.name == name]
    return found


def changed(**changes: Any) -> MemoryPlan:
    return plan_memory(replace(RUN, **changes))


def test_training_state_is_sixteen_bytes_a_parameter_and_gradients_are_freed() -> None:
    plan = changed()
    number = SIZE.total
    assert part(plan, "policy weights") == (4 * number,) * 3
    assert part(plan, "gradients") == (0, 4 * number, 4 * number)
    assert part(plan, "optimizer states") == (8 * number,) * 3
    assert plan.peak == max(plan.total(phase) for phase in ("sampling", "training", "stepping"))


def test_shards_divide_states_and_the_reference_but_not_the_engine() -> None:
    four = Placement("fsdp2", 4, 4)
    plan = changed(placement=four, separate_reference=True, engine=ENGINE)
    assert part(plan, "policy weights")[0] == SIZE.total
    assert part(plan, "optimizer states")[0] == 2 * SIZE.total
    assert part(plan, "reference weights")[0] == SIZE.total / 2
    assert part(plan, "engine weights")[0] == 2 * SIZE.total
    hybrid = changed(placement=Placement("fsdp2", 4, 2))
    assert part(hybrid, "policy weights")[0] == 2 * SIZE.total


def test_one_rank_holds_all_weights_in_host_memory_while_they_load() -> None:
    """The others hold none before they receive their shards, which stay there if they are offloaded."""
    eight = replace(RUN, placement=Placement("fsdp2", 8, 8))
    whole = 4 * SIZE.total
    assert host_bytes_while_loading(RUN, SIZE, 8) == 0
    assert host_bytes_while_loading(eight, SIZE, 8) == whole
    assert host_bytes_while_loading(replace(eight, separate_reference=True), SIZE, 8) == 1.5 * whole
    offloaded = replace(eight, placement=Placement("fsdp2", 8, 8, offload=True))
    assert host_bytes_while_loading(offloaded, SIZE, 8) == 2 * whole
    assert host_bytes_while_loading(offloaded, SIZE, 4) == 1.5 * whole
    notes = make_report(offloaded, plan_memory(offloaded), None, "here", 8).notes
    assert "on the first node: one rank reads all weights, and every rank keeps its shards there." in notes[0]
    assert "weights." in make_report(eight, plan_memory(eight), None, "here", 8).notes[0]


def test_ddp_copies_gradients_into_buckets_unless_they_are_views() -> None:
    assert part(changed(placement=Placement("ddp", 2, 1)), "DDP buckets")[1] == 4 * SIZE.total
    views = changed(placement=Placement("ddp", 2, 1, bucket_views=True))
    assert "DDP buckets" not in [each.name for each in views.parts]


def test_a_sleeping_engine_holds_nothing_while_the_policy_trains() -> None:
    awake, asleep = (changed(engine=replace(ENGINE, sleep=sleep)) for sleep in (False, True))
    assert part(awake, "engine's key-value cache")[1] == part(asleep, "engine's key-value cache")[0] > 0
    assert part(asleep, "engine's key-value cache")[1:] == (0, 0)
    assert part(asleep, "engine weights")[1:] == (0, 0)


def test_an_engine_whose_share_holds_no_response_is_refused() -> None:
    run = replace(RUN, engine=VllmSettings(gpu_memory_utilization=0.01))
    with pytest.raises(UserError, match=r"rollout.engine.gpu_memory_utilization"):
        plan_memory(run, find_gpu("h100"))


def test_adapters_leave_the_base_frozen_and_rounded() -> None:
    plan = changed(policy=PolicyConfig(path="random", lora=LoraSettings(rank=4)))
    assert 0 < plan.size.trainable < 0.2 * plan.size.total
    frozen = plan.size.total - plan.size.trainable
    assert part(plan, "policy weights")[0] == 4 * plan.size.trainable + 2 * frozen


def test_the_micro_batch_is_the_budget_or_the_update_or_one_row() -> None:
    assert 460 <= largest_micro_batch(RUN).num_tokens <= 512
    few = largest_micro_batch(replace(RUN, training=SamplingRequest("training", 2, 40, 50)))
    assert (few.num_rows, few.accumulates) == (2, False)
    long = largest_micro_batch(replace(RUN, training=SamplingRequest("training", 64, 400, 500)))
    assert (long.num_rows, long.num_tokens) == (1, 899)


def test_the_largest_budget_fits_and_the_next_does_not() -> None:
    gpu = Gpu("small", int(changed().peak + 0.2 * GIB))
    budget = largest_token_budget(RUN, changed(), gpu)
    assert budget is not None
    wide = replace(RUN, training=RUN.training._replace(num_rows=10**5))  # enough to fill any budget
    for factor, fits in ((1.0, True), (1.2, False)):
        run = replace(wide, policy=replace(RUN.policy, tokens_per_micro_batch=int(factor * budget)))
        assert (plan_memory(run).total("training") <= gpu.memory) is fits


def test_changes_are_suggested_until_the_run_fits() -> None:
    run = replace(RUN, engine=ENGINE, training=RUN.training._replace(num_rows=1000))
    run = replace(run, policy=PolicyConfig(path="random", tokens_per_micro_batch=20_000))
    peak = plan_memory(run).peak
    (sleep,) = suggest_changes(run, Gpu("nearly", int(peak - 0.1 * GIB)))
    assert sleep.sentence == "rollout.engine.sleep: true"
    assert sleep.fits
    limit = int(1.8 * GIB)
    run = replace(run, engine=None)
    changes = suggest_changes(run, Gpu("small", limit))
    assert [each.fits for each in changes] == [*[False] * (len(changes) - 1), True]
    assert plan_memory(changes[-1].run).peak <= limit
    assert not suggest_changes(run, Gpu("hopeless", 2**20))[-1].fits


def test_offload_is_suggested_with_the_process_group_that_it_needs() -> None:
    """On GPUs alone: on the CPU weights are in host memory anyway."""
    run = replace(RUN, placement=Placement("fsdp2", 4, 4))
    ((sentence, offloaded),) = _offload(run, plan_memory(run), find_gpu("h100"))
    assert offloaded.placement.offload
    assert "model.policy.sharding.cpu_offload: true" in sentence
    assert f'trainer.strategy.init_args.process_group_backend: "{OFFLOAD_BACKEND}"' in sentence
    assert not list(_offload(replace(run, device="cpu"), plan_memory(run), find_gpu("h100")))


def test_gpus_are_named_or_sized() -> None:
    assert find_gpu("H100").memory == 79 * GIB
    assert find_gpu("48").memory == 48 * GIB
    for wrong in ("h1000", "-3"):
        with pytest.raises(UserError, match="--gpu"):
            find_gpu(wrong)


@pytest.mark.parametrize(
    ("path", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B", 0.494),
        ("Qwen/Qwen2.5-1.5B", 1.544),
        ("Qwen/Qwen2.5-3B", 3.086),
        ("Qwen/Qwen2.5-7B", 7.616),
        ("Qwen/Qwen2.5-32B", 32.764),
        ("unsloth/Llama-3.2-1B-Instruct", 1.236),
        ("deepseek-ai/deepseek-math-7b-instruct", 6.910),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.1345),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(path: str, billions: float) -> None:
    """The model cards' numbers: a wrong field in the table would change them."""
    config = known_config(path)
    assert config is not None
    size = measure_model(config, PolicyConfig(path=path), torch.float32)
    assert size.total / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_cpu_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "bfloat16_slowdown", lambda: 100.0)
    assert "100 times slower" in str(bfloat16.warn_about_bfloat16())
    monkeypatch.setattr(bfloat16, "bfloat16_slowdown", lambda: 0.5)
    assert bfloat16.warn_about_bfloat16() is None
