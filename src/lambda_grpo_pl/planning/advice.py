"""What to change so that a run fits: changes in the order of what they cost, until it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.gpus import Gpu
from lambda_grpo_pl.planning.memory import MemoryPlan, plan_memory
from lambda_grpo_pl.planning.run import Placement, PlannedRun
from lambda_grpo_pl.planning.tracing import trace_pass
from lambda_grpo_pl.policy import LoraSettings

STEP = 512
"""Token budgets are rounded down to a multiple of it."""
MARGIN = 0.98
"""Share of the free memory that a suggested micro-batch fills."""
SHARDS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of GPUs that are tried."""


class Change(NamedTuple):
    """A change of the configuration and what the run takes with it and all changes before it."""

    sentence: str
    """What to set."""
    run: PlannedRun
    plan: MemoryPlan
    fits: bool


def largest_token_budget(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> int | None:
    """Return the largest `tokens_per_micro_batch` that fits, or None if not even one longest row does."""
    shape, peak = plan.micro_batch, plan.traced.peak
    smaller = replace(shape, num_rows=max(1, shape.num_rows // 2))
    if smaller == shape:  # one row: all but the head's part grows with tokens
        per_token = (peak - plan.traced.head) / shape.num_tokens
    else:
        saved = peak - trace_pass(run.config, run.policy, smaller).peak
        per_token = saved / (shape.num_tokens - smaller.num_tokens)
    room = gpu.memory - plan.total("training")
    budget = int(shape.num_tokens + MARGIN * room / per_token) // STEP * STEP
    return budget if budget >= run.training.longest_row else None


def suggest_changes(run: PlannedRun, gpu: Gpu) -> list[Change]:
    """Return changes that together make `run` fit `gpu`; if the last one does not fit, nothing known does."""
    plan, changes = plan_memory(run, gpu), list[Change]()
    for change in (_sleep, _checkpoint, _shrink_micro_batch, _shard, _round_states, _offload, _adapt):
        for sentence, changed in change(run, plan, gpu):
            try:
                planned = plan_memory(changed, gpu)
            except UserError:
                continue
            fits = planned.peak <= gpu.memory
            if not fits and planned.peak >= plan.peak:
                continue
            run, plan = changed, planned
            changes.append(Change(sentence, run, plan, fits))
            if fits:
                return changes
    return changes


Proposals = Iterator[tuple[str, PlannedRun]]


def _sleep(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    if run.engine is not None and run.device == "gpu" and not run.engine.sleep:
        yield "rollout.engine.sleep: true", replace(run, engine=replace(run.engine, sleep=True))


def _checkpoint(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    if not run.policy.gradient_checkpointing:
        yield (
            "model.policy.gradient_checkpointing: true",
            replace(run, policy=replace(run.policy, gradient_checkpointing=True)),
        )


def _shrink_micro_batch(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    budget = largest_token_budget(run, plan, gpu) or -(-run.training.longest_row // STEP) * STEP
    if budget < run.token_budget:
        yield (
            f"model.policy.tokens_per_micro_batch: {budget}",
            replace(run, policy=replace(run.policy, tokens_per_micro_batch=budget)),
        )


def _shard(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    """Over the ranks that there are, else over the fewest that suffice."""
    if run.device == "cpu":
        return
    placement = run.placement
    there = placement.world_size
    if placement.strategy != "fsdp2" and there > 1:
        yield f"configs/strategy/fsdp2.yaml on the {there} GPUs", replace(run, placement=_sharded(there))
        placement = _sharded(there)
    for shards in SHARDS:
        if shards > max(there, placement.shards):
            wider = replace(run, placement=_sharded(shards))
            try:
                fits = plan_memory(wider, gpu).peak <= gpu.memory
            except UserError:
                return
            if fits:
                yield f"configs/strategy/fsdp2.yaml on {shards} GPUs", wider
                return


def _sharded(num_ranks: int) -> Placement:
    return Placement("fsdp2", num_ranks, num_ranks)


def _round_states(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    if run.optimizer_states == "float32" and run.placement.strategy != "fsdp2":
        yield "model.optimizer.states: 8bit", replace(run, optimizer_states="8bit")


def _offload(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    if run.placement.strategy == "fsdp2" and run.device == "gpu" and not run.placement.offload:
        yield (
            "model.policy.sharding.cpu_offload: true, and trainer.strategy.init_args.process_group_backend: "
            '"cpu:gloo,cuda:nccl", as in configs/strategy/cpu_offload.yaml (slow)',
            replace(run, placement=run.placement._replace(offload=True)),
        )


def _adapt(run: PlannedRun, plan: MemoryPlan, gpu: Gpu) -> Proposals:
    if run.policy.lora is None:
        yield (
            "model.policy.lora.rank: 32 (trains adapters instead of all weights)",
            replace(run, separate_reference=False, policy=replace(run.policy, lora=LoraSettings(rank=32))),
        )
