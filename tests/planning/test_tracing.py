"""The traced memory of a pass is what torch's allocator really holds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from lambda_grpo_pl.planning.tracing import PassShape, trace_exactly, trace_pass
from lambda_grpo_pl.planning.tracing import _rows as make_rows
from lambda_grpo_pl.policy import LoraSettings, Policy, PolicyConfig, lay_out
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.policy.loading import add_lora

CONFIG = LlamaConfig(
    vocab_size=3000,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
SHAPE = PassShape(
    num_rows=6,
    prompt_tokens=40,
    response_tokens=50,
    layout="packed",
    weights=torch.float32,
    autocast=False,
    accumulates=True,
    fused=True,
)


def measure(settings: PolicyConfig, shape: PassShape) -> int:
    """Peak of the allocator in a real pass."""
    attention = None if shape.layout == "padded" else PACKED
    model: Any = AutoModelForCausalLM.from_config(CONFIG, dtype=shape.weights, attn_implementation=attention)
    if settings.lora is not None:
        model = add_lora(model, settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model, settings, layouts=("packed", "shared_prefix", "padded")).train()
    micro_batch = lay_out(*make_rows(shape), torch.arange(shape.num_rows), shape.layout)
    if micro_batch.layout is not None:
        micro_batch.layout.blocks(None)
    if shape.accumulates:
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=shape.autocast, cache_enabled=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler, autocast:
        if shape.fused:
            loss, _ = policy(micro_batch, lambda logprobs, place: -(logprobs - logprobs.detach()).exp().sum())
        else:
            _, scores = policy(micro_batch)
            loss = -(scores.logprobs - scores.logprobs.detach()).exp().sum()
            del scores
        loss.backward()
    events: Any = profiler.profiler
    live = peak = 0
    for _, num_bytes in sorted(
        (event.start_ns(), event.nbytes()) for event in events.kineto_results.events() if event.name() == "[memory]"
    ):
        live += num_bytes
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        pytest.param({}, {}, id="packed"),
        pytest.param({}, {"layout": "shared_prefix"}, id="shared prefix"),
        pytest.param({}, {"layout": "padded"}, id="padded"),
        pytest.param({}, {"accumulates": False}, id="first micro-batch"),
        pytest.param({}, {"fused": False}, id="recomputed logits"),
        pytest.param({"gradient_checkpointing": True}, {}, id="checkpointing"),
        pytest.param({"head_chunk": 64}, {}, id="small chunks"),
        pytest.param({"lora": LoraSettings(rank=4)}, {}, id="LoRA"),
        pytest.param({}, {"autocast": True}, id="bf16"),
    ],
)
def test_a_traced_peak_is_the_measured_one(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    config, shape = PolicyConfig(path="random", **settings), replace(SHAPE, **changes)
    tolerance = 0.1 if shape.layout == "padded" else 0.03  # there SDPA may choose another kernel for real tensors
    assert trace_exactly(CONFIG, config, shape).peak == pytest.approx(measure(config, shape), rel=tolerance)


def test_a_deep_model_is_extrapolated_exactly() -> None:
    deep = CONFIG.__class__(**{**CONFIG.to_dict(), "num_hidden_layers": 9})
    config = PolicyConfig(path="random")
    assert trace_pass(deep, config, SHAPE) == pytest.approx(trace_exactly(deep, config, SHAPE), rel=1e-3)
