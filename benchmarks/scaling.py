"""How the time of forward and backward grows with tokens, group size, prompt length and response length.

    python benchmarks/scaling.py [--repeats 3] [--threads 2]

Each axis grows one size and keeps the others; the exponent is the slope of log seconds over log size (least squares on
the medians of interleaved repeats). More groups are more tokens in rows that stay as they are, so that axis' exponent
is that of the time in tokens, the square in attention set aside. Prompts are shared by their group, as `auto` does.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import torch
from report import table, write
from workload import learn, make_model, scored_rollout

from lambda_grpo_pl.policy import Policy, PolicyConfig

BASE = {"num_prompts": 16, "group_size": 8, "prompt_length": 32, "max_tokens": 32}
AXES = {
    "num_prompts": [8, 16, 32, 64],
    "group_size": [2, 4, 8, 16],
    "prompt_length": [16, 64, 256, 512],
    "max_tokens": [16, 32, 64, 128],
}
GOAL = 1.05
"""Largest acceptable exponent of time in tokens (axis num_prompts)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="Interleaved repeats after one that warms up.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = Policy(make_model(), PolicyConfig(path="random"))
    axes = {axis: measure(policy, axis, sizes, arguments.repeats) for axis, sizes in AXES.items()}
    rows = [
        [axis, f"{result['exponent']:.3f}", f"{result['exponent_in_tokens']:.3f}", *_cells(result)]
        for axis, result in axes.items()
    ]
    table(["axis", "exponent", "in tokens", "size: seconds", "", "", ""], rows)
    print(f"goal: time in tokens (axis num_prompts) ≤ {GOAL}")
    write("scaling", {"base": BASE, "axes": axes, "goal": GOAL, "settings": vars(arguments)})


def measure(policy: Policy, axis: str, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Median seconds and tokens at each size, and the exponents."""
    batches = [scored_rollout(**(BASE | {axis: size}), fixed_length=True, num_settled=0) for size in sizes]  # type: ignore[arg-type]
    seconds: list[list[float]] = [[] for _ in sizes]
    tokens = [0] * len(sizes)
    for repeat in range(repeats + 1):
        for place, batch in enumerate(batches):
            start = time.perf_counter()
            tokens[place] = learn(policy, batch, "shared_prefix").num_tokens
            seconds[place] += [time.perf_counter() - start] * (repeat > 0)
            policy.zero_grad()
    medians = [statistics.median(times) for times in seconds]
    return {
        "sizes": sizes,
        "tokens": tokens,
        "seconds": medians,
        "exponent": slope(sizes, medians),
        "exponent_in_tokens": slope(tokens, medians),
    }


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Exponent b of the power law seconds = a · size^b that fits best in logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(time) for time in seconds]).slope


def _cells(result: dict[str, Any]) -> list[str]:
    return [f"{size}: {seconds:.3f}" for size, seconds in zip(result["sizes"], result["seconds"], strict=True)]


if __name__ == "__main__":
    main()
