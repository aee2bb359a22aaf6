"""The training phase on one GPU: model FLOP utilisation, tokens per second and peak memory.

    python benchmarks/gpu_step.py [--prompts 16] [--group 8] [--prompt-tokens 256] [--response-tokens 1792]
        [--gradient-checkpointing] [--compile] [--peak-tflops 989]

Qwen2.5-1.5B's shape with random weights in bf16-mixed. One update as `training_step` takes it: forward and backward
over all responses, clipping, AdamW. FLOP of the model: 6 per weight and token that passes through it (the head only at
response tokens, the embedding not at all), and 12 × width per pair of a token and one that it sees, in each layer;
recomputation does not count. The peak defaults to the dense bfloat16 of an H100 or H200. Where there is no CUDA device
it says so and ends.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from report import table, write
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from workload import learn, quiet, scored_rollout

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.policy import Policy, PolicyConfig
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.training.config import OptimizerConfig
from lambda_grpo_pl.training.optimization import clip_gradient, make_optimizer

GOAL = 0.45
"""Smallest acceptable share of the peak at 2,048 tokens a row."""
SHAPE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16, help="Prompts.")
    parser.add_argument("--group", type=int, default=8, help="Responses a prompt.")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="Length of every prompt.")
    parser.add_argument("--response-tokens", type=int, default=1792, help="Length of every response.")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=16_384, help="Token budget of a pass.")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="Recompute activations.")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer.")
    parser.add_argument("--updates", type=int, default=3, help="Updates after one that warms up.")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="The GPU's dense bfloat16 peak.")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here: gpu_step.py measures one and has nothing to do.")
        return
    quiet()
    batch = scored_rollout(
        arguments.prompts, arguments.group, arguments.prompt_tokens, arguments.response_tokens, fixed_length=True
    ).to("cuda")
    policy = make_policy(arguments)
    optimizer = make_optimizer(policy.parameters(), OptimizerConfig())
    torch.cuda.reset_peak_memory_stats()
    updates = [update(policy, optimizer, batch, arguments) for _ in range(arguments.updates + 1)][1:]
    seconds = statistics.median(elapsed for elapsed, _ in updates)
    num_tokens, num_responses = updates[0][1], int(batch.sampled().lengths.sum())
    flop = model_flop(policy.model, batch, num_tokens)
    result = {
        "seconds": seconds,
        "tokens": num_tokens,
        "tokens_per_second": num_tokens / seconds,
        "response_tokens_per_second": num_responses / seconds,
        "model_flop_utilisation": flop / seconds / (arguments.peak_tflops * 1e12),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    table(list(result), [[f"{value:.3g}" for value in result.values()]])
    write("gpu_step", {"result": result, "goal": {"model_flop_utilisation": GOAL}, "settings": vars(arguments)})


def make_policy(arguments: argparse.Namespace) -> Policy:
    """Float32 weights on the GPU, in train mode."""
    config = PolicyConfig(
        path="random",
        gradient_checkpointing=arguments.gradient_checkpointing,
        tokens_per_micro_batch=arguments.tokens_per_micro_batch,
        compile=arguments.compile,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, attn_implementation=PACKED))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Policy(model, config).train()


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, batch: RolloutBatch, arguments: argparse.Namespace
) -> tuple[float, int]:
    """Seconds and tokens of one update."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    layout = policy.layout_for(batch.prompts.lengths.cpu(), batch.sampled().lengths.cpu())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        num_tokens = learn(policy, batch, layout, arguments.tokens_per_micro_batch).num_tokens
    clip_gradient(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    torch.cuda.synchronize()
    return time.perf_counter() - start, num_tokens


def model_flop(model: nn.Module, batch: RolloutBatch, num_tokens: int) -> float:
    """FLOP of forward and backward: 6 a weight and token, 12 a unit of width and visible pair."""
    lengths = batch.sampled().lengths.double()
    prompts = batch.prompts.lengths.repeat_interleave(batch.group_size).double()
    embedding = SHAPE["vocab_size"] * SHAPE["hidden_size"]
    layers = sum(weight.numel() for weight in model.parameters()) - embedding
    shared = num_tokens < float((prompts + lengths - 1).sum())
    pairs = float((lengths * prompts + lengths.square() / 2).sum())
    pairs += float((batch.prompts.lengths if shared else prompts).double().square().sum()) / 2
    attention = 12.0 * SHAPE["num_hidden_layers"] * SHAPE["hidden_size"] * pairs
    return 6.0 * (layers * num_tokens + embedding * float(lengths.sum())) + attention


if __name__ == "__main__":
    main()
