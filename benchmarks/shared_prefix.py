"""A training step with each prompt computed once a group, against once a response: time, tokens, gradients.

    python benchmarks/shared_prefix.py [--prompt 512] [--response 64] [--group 8] [--repeats 5] [--threads 2]

Forward, backward, clipping and AdamW on the 3 M-parameter model, every response of full length. The two ways alternate;
the ratio is the median over repeats. Gradients are compared before the optimizer.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from report import median_of_ratios, table, write
from torch import Tensor
from workload import learn, make_model, scored_rollout

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.policy import Layout, Policy, PolicyConfig
from lambda_grpo_pl.training.config import OptimizerConfig
from lambda_grpo_pl.training.optimization import clip_gradient, make_optimizer

GOAL = 2.5
"""Smallest acceptable speed-up at prompt 512, response 64, G = 8."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512, help="Prompt tokens.")
    parser.add_argument("--response", type=int, default=64, help="Response tokens.")
    parser.add_argument("--group", type=int, default=8, help="Responses a prompt.")
    parser.add_argument("--num-prompts", type=int, default=4, help="Prompts.")
    parser.add_argument("--repeats", type=int, default=5, help="Alternations after one that warms up.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch = scored_rollout(
        arguments.num_prompts, arguments.group, arguments.prompt, arguments.response, fixed_length=True, num_settled=0
    )
    policy = Policy(make_model(), PolicyConfig(path="random"))
    layouts: tuple[Layout, ...] = ("packed", "shared_prefix")
    packed, shared = (gradient(policy, batch, layout) for layout in layouts)
    difference = float((packed - shared).norm() / packed.norm())
    seconds: dict[str, list[float]] = {layout: [] for layout in layouts}
    tokens: dict[str, int] = {}
    for repeat in range(arguments.repeats + 1):
        for layout in layouts:
            elapsed, tokens[layout] = step(policy, batch, layout)
            seconds[layout] += [elapsed] * (repeat > 0)
    speedup = 1 / median_of_ratios(seconds["shared_prefix"], seconds["packed"])
    medians = {layout: statistics.median(times) for layout, times in seconds.items()}
    table(["layout", "tokens", "seconds"], [[layout, tokens[layout], f"{medians[layout]:.3f}"] for layout in layouts])
    print(f"speed-up {speedup:.2f} (goal ≥ {GOAL}); relative difference of the gradients {difference:.1e}")
    result = {
        "settings": vars(arguments),
        "tokens": tokens,
        "seconds": medians,
        "speedup": speedup,
        "goal": GOAL,
        "gradient_difference": difference,
    }
    write("shared_prefix", result)


def gradient(policy: Policy, batch: RolloutBatch, layout: Layout) -> Tensor:
    """The policy's gradient as one vector."""
    learn(policy, batch, layout)
    vector = torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])
    policy.zero_grad()
    return vector


def step(policy: Policy, batch: RolloutBatch, layout: Layout) -> tuple[float, int]:
    """Seconds and tokens of one training step."""
    optimizer = make_optimizer(policy.parameters(), OptimizerConfig(lr=1e-9))
    start = time.perf_counter()
    num_tokens = learn(policy, batch, layout).num_tokens
    clip_gradient(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start, num_tokens


if __name__ == "__main__":
    main()
