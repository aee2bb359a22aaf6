"""Memory of one device by part and phase, computed from a run's settings.

A step has three phases with a peak each: rollouts are sampled, micro-batches pass forward and backward, the optimizer
steps. Parts that exist in a phase add up; the largest phase decides whether the run fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from lambda_grpo_pl.planning.engine import engine_parts
from lambda_grpo_pl.planning.gpus import GIB, Gpu
from lambda_grpo_pl.planning.micro_batch import largest_micro_batch, weights_dtype
from lambda_grpo_pl.planning.parts import PHASES, Part
from lambda_grpo_pl.planning.run import PlannedRun
from lambda_grpo_pl.planning.sharding import gathered_parts
from lambda_grpo_pl.planning.sizes import ModelSize, measure_model
from lambda_grpo_pl.planning.tracing import PassMemory, PassShape, trace_pass

RESERVE = 1.5 * GIB
"""What a GPU loses to the CUDA context, libraries' workspaces and the allocator's gaps."""


class MemoryPlan(NamedTuple):
    """What one device holds."""

    size: ModelSize
    """The policy."""
    micro_batch: PassShape
    """The pass that was traced."""
    traced: PassMemory
    """What it takes."""
    parts: tuple[Part, ...]
    """Everything that is held, part by part."""

    def total(self, phase: str) -> float:
        """Bytes at the peak of a phase."""
        return float(sum(getattr(part, phase) for part in self.parts))

    @property
    def phase(self) -> str:
        """The phase that takes the most."""
        return max(PHASES, key=self.total)

    @property
    def peak(self) -> float:
        """Bytes that the device must have."""
        return self.total(self.phase)


def plan_memory(run: PlannedRun, gpu: Gpu | None = None) -> MemoryPlan:
    """Return what each device of `run` holds; `gpu` is needed for an engine that takes a share of its memory."""
    size = measure_model(run.config, run.policy, weights_dtype(run, run.mixed_precision))
    micro_batch = largest_micro_batch(run)
    traced = trace_pass(run.config, run.policy, micro_batch)
    parts = [
        *_states(run, size),
        *engine_parts(run, size, gpu),
        *gathered_parts(run, size),
        *_pass_parts(traced),
        *_validation_parts(run, size, traced, micro_batch),
    ]
    if run.device == "gpu":
        parts.append(Part("device context and allocator", RESERVE, RESERVE, RESERVE))
    return MemoryPlan(size, micro_batch, traced, tuple(part for part in parts if any(part[1:4])))


def _states(run: PlannedRun, size: ModelSize) -> Iterator[Part]:
    """Weights and what training keeps beside them, on this rank."""
    placement = run.placement
    shards = placement.shards
    where = f"1/{shards} of them" if shards > 1 else ""
    if placement.offload:
        yield Part("policy, gradients, optimizer", 0, 0, 0, "in host memory (FSDP2 offload)")
    else:
        gradients = 4 * size.trainable / shards
        moments = (8 if run.optimizer_states == "float32" else 2.1) * size.trainable / shards
        accumulated = gradients if largest_micro_batch(run).accumulates else 0.0
        weights = size.stored_bytes / shards
        yield Part("policy weights", weights, weights, weights, where)
        yield Part("gradients", 0, accumulated, gradients, "freed after each update")
        yield Part("optimizer states", moments, moments, moments, run.optimizer_states)
    if run.separate_reference:
        reference = _reference_bytes(run, size) / shards
        yield Part("reference weights", reference, reference, reference, where)
    if placement.strategy == "ddp" and not placement.bucket_views:
        buckets = 4 * size.trainable
        yield Part("DDP buckets", buckets, buckets, buckets, "gradient_as_bucket_view: true saves them")


def _pass_parts(traced: PassMemory) -> Iterator[Part]:
    """One micro-batch, forward and backward."""
    temporary = traced.peak - traced.activations - traced.head
    yield Part("activations", 0, traced.activations, 0, "what the transformer keeps for its backward pass")
    yield Part("head", 0, traced.head, 0, "a chunk of logits, and the gradient of the head's weight")
    yield Part("backward", 0, temporary, 0, "what exceeds the two above during the backward pass")


def _validation_parts(run: PlannedRun, size: ModelSize, traced: PassMemory, shape: PassShape) -> Iterator[Part]:
    """What the `validation` rule takes on top: a float32 pass, then two copies of the weights without activations."""
    if not run.validation_rule:
        return
    wide = largest_micro_batch(run, mixed_precision=False)
    pass_bytes = traced.peak if wide == shape else trace_pass(run.config, run.policy, wide).peak
    copies = 8 * size.trainable / run.placement.shards
    extra = max(pass_bytes, copies) - traced.peak
    if extra > 0:
        yield Part("validation rule", 0, extra, 0, "float32 pass, or copies of the weights")


def host_bytes_while_loading(run: PlannedRun, size: ModelSize, ranks_per_node: int) -> float:
    """Host memory of the first node while weights are loaded under FSDP2; other strategies load onto the device.

    The first rank reads policy and reference whole before it sends the others their shards. Those have no memory for
    weights before they receive them, tensor by tensor, on the device; offloaded shards then go to host memory.
    """
    if run.placement.strategy != "fsdp2":
        return 0.0
    shards = ranks_per_node * size.stored_bytes / run.placement.shards
    return size.stored_bytes + _reference_bytes(run, size) + (shards if run.keeps_shards_on_host else 0.0)


def _reference_bytes(run: PlannedRun, size: ModelSize) -> float:
    """The frozen reference as a whole, if it is a model of its own."""
    return float(size.total * (2 if run.mixed_precision else 4)) if run.separate_reference else 0.0


def needs_bfloat16(run: PlannedRun) -> bool:
    """Whether a run on the CPU computes in bfloat16."""
    engine = run.engine is not None and run.engine.torch_dtype == torch.bfloat16
    return run.device == "cpu" and (run.mixed_precision or engine)
