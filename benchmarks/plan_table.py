"""What `lambda-grpo plan` says of four model sizes on 1, 8 and 64 GPUs: the table of docs/scaling.md.

    python benchmarks/plan_table.py [--gpu h100]

Nothing is measured. 128 prompts × 8 responses of up to 1,024 + 3,072 tokens, bf16-mixed, gradient checkpointing,
micro-batches of 16,384 tokens, vLLM in the training process. For each size and number of GPUs, the first of the stacks
below that fits.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from report import table, write

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.gpus import GIB, Gpu, find_gpu
from lambda_grpo_pl.planning.known_models import known_config
from lambda_grpo_pl.planning.memory import MemoryPlan, plan_memory
from lambda_grpo_pl.planning.parts import PHASES
from lambda_grpo_pl.planning.run import Placement, PlannedRun, SamplingRequest
from lambda_grpo_pl.policy import LoraSettings, PolicyConfig
from lambda_grpo_pl.sampling import VllmSettings

MODELS = ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-32B")
NUM_PROMPTS, GROUP_SIZE, PROMPT, RESPONSE = 128, 8, 1024, 3072


class Stack(NamedTuple):
    """A choice of overlays."""

    name: str
    placement: Placement
    sleep: bool = False
    share: float = 0.3
    states: Any = "float32"
    lora: bool = False


def stacks(num_gpus: int) -> list[Stack]:
    """What is tried, in the order of how simple and fast it is."""
    if num_gpus == 1:
        single = Placement("single", 1, 1)
        return [
            Stack("single_gpu", single),
            Stack("single_gpu, sleep", single, True),
            Stack("single_gpu, sleep, 8-bit states", single, True, states="8bit"),
            Stack("single_gpu, sleep, LoRA", single, True, 0.4, lora=True),
            Stack("single_gpu, sleep, LoRA, engine 0.9", single, True, 0.9, lora=True),
        ]
    ddp = Placement("ddp", num_gpus, 1, bucket_views=True)
    node, whole = (Placement("fsdp2", num_gpus, shards) for shards in (8, num_gpus))
    many = num_gpus > 8
    return [
        Stack("ddp", ddp),
        Stack("ddp, sleep", ddp, True),
        Stack("fsdp2, hybrid" if many else "fsdp2", node, True),
        Stack("fsdp2 over all GPUs", whole, True),
        Stack("fsdp2 over all GPUs, engine 0.88", whole, True, 0.88),
    ]


def plan(path: str, stack: Stack, gpu: Gpu) -> MemoryPlan:
    """The plan of a model under a stack. Raises `UserError` if the engine cannot start."""
    config = known_config(path)
    assert config is not None
    settings = PolicyConfig(
        path=path,
        gradient_checkpointing=True,
        tokens_per_micro_batch=16_384,
        lora=LoraSettings(rank=32) if stack.lora else None,
    )
    share = max(1, NUM_PROMPTS // stack.placement.world_size)
    run = PlannedRun(
        config=config,
        policy=settings,
        placement=stack.placement,
        device="gpu",
        mixed_precision=True,
        training=SamplingRequest("training", share * GROUP_SIZE, PROMPT, RESPONSE),
        evaluations=(),
        num_minibatches=1,
        group_size=GROUP_SIZE,
        separate_reference=False,
        optimizer_states=stack.states,
        validation_rule=False,
        fused=True,
        engine=VllmSettings(sleep=stack.sleep, gpu_memory_utilization=stack.share),
    )
    return plan_memory(run, gpu)


def find_stack(path: str, num_gpus: int, gpu: Gpu) -> dict[str, Any]:
    """The first stack that fits."""
    row: dict[str, Any] = {"model": path, "gpus": num_gpus, "stack": "none"}
    for stack in stacks(num_gpus):
        try:
            found = plan(path, stack, gpu)
        except UserError:
            continue
        if found.peak <= gpu.memory:
            totals = {phase: found.total(phase) / GIB for phase in PHASES}
            return row | {"stack": stack.name, **totals}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h100", help="The GPU.")
    gpu = find_gpu(parser.parse_args().gpu)
    rows = [find_stack(path, num_gpus, gpu) for path in MODELS for num_gpus in (1, 8, 64)]
    table(
        ["model", "GPUs", "stack", *PHASES],
        [
            [
                row["model"].removeprefix("Qwen/"),
                row["gpus"],
                row["stack"],
                *(f"{row[phase]:.0f}" if phase in row else "–" for phase in PHASES),
            ]
            for row in rows
        ],
    )
    write("plan_table", {"gpu": gpu.name, "memory_gib": gpu.memory / GIB, "computed": True, "rows": rows}, ("torch",))


if __name__ == "__main__":
    main()
