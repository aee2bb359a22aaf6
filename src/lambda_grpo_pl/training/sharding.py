"""Splitting the policy over GPUs (FSDP2), and exchanging gradients between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy, Reference, ShardingSettings


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies under which gradients or their norm would be wrong. Raises `UserError`."""
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise UserError(
            f"trainer.strategy is {type(strategy).__name__}, which this package does not support: use one device "
            "(auto), ddp, or ModelParallelStrategy (FSDP2, see configs/strategy/fsdp2.yaml)."
        )


def shard_policies(
    policy: Policy,
    references: Sequence[Reference],
    mesh: DeviceMesh,
    settings: ShardingSettings,
    dtype: torch.dtype | None,
) -> None:
    """Shard the policy, and the reference if it is a model of its own; `dtype` is the policy's (`shard_policy`)."""
    shard_policy(policy, mesh, settings, dtype)
    for reference in references:
        if isinstance(reference, Policy):
            shard_policy(reference, mesh, settings, None)


def shard_policy(policy: Policy, mesh: DeviceMesh, settings: ShardingSettings, dtype: torch.dtype | None) -> None:
    """Shard each transformer layer and the rest of a policy, or of the reference, over the ranks of `mesh`, in place.

    `dtype` is what parameters are gathered and computed in (None: as stored); master weights, gradients and optimizer
    states keep their own. The head shares the root's group, so its weight is whole inside `Policy.forward`.

    Raises `UserError` for a mesh with a tensor-parallel dimension: ranks along it would train on different prompts
    without reducing their gradients.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"trainer.strategy splits layers over {mesh['tensor_parallel'].size()} ranks, which this package does not "
            "support: set trainer.strategy.init_args.tensor_parallel_size to 1 and data_parallel_size to the number "
            "of ranks."
        )
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    arguments: dict[str, Any] = {"mesh": _data_mesh(mesh["data_parallel"], settings.replicas), "mp_policy": precision}
    if settings.cpu_offload:
        arguments["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    layer_names = set(policy.causal_lm._no_split_modules or [])
    for module in policy.modules():
        if type(module).__name__ in layer_names:
            fully_shard(module, **arguments)
    trains = any(parameter.requires_grad for parameter in policy.parameters())
    # By default the root stays whole after a forward pass, for the backward pass that a frozen reference does not have.
    fully_shard(policy, **arguments, reshard_after_forward=None if trains else True)
    policy.offloaded = settings.cpu_offload


def _data_mesh(mesh: DeviceMesh, replicas: int) -> DeviceMesh:
    """The mesh over which weights are sharded, or replicated and sharded (hybrid sharding) with several `replicas`."""
    if replicas == 1:
        return mesh
    if mesh.size() % replicas:
        raise UserError(
            f"model.policy.sharding.replicas is {replicas}, which does not divide the {mesh.size()} ranks: set it to "
            "trainer.num_nodes."
        )
    ranks = mesh.mesh.view(replicas, -1)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("replicate", "shard"))


def gathers_rounded(trainer: Any, learn: str) -> bool:
    """Whether FSDP2 may gather bfloat16 weights.

    The virtual step on held-out prompts is taken in float32, so it needs whole float32 weights: autocast rounds them
    for all other passes. Gathering them takes twice the traffic.
    """
    heldout = getattr(getattr(trainer, "datamodule", None), "heldout_source", None) is not None
    return "bf16" in trainer.precision and not (heldout or learn == "validation")


def drop_gathered_weights(policy: Policy) -> None:
    """Make the next pass gather its weights again; call it after changing a policy's weights in place.

    FSDP2 keeps the root's weights whole after a forward pass without a backward pass, and would compute with the old
    ones. Does nothing for a policy that is not sharded.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def sync_gradients(strategy: Strategy, last: bool) -> Iterator[None]:
    """Let one backward pass exchange gradients between ranks; under DDP only if it is the `last` of an update.

    FSDP2 reduces every micro-batch: waiting for the last one would keep whole float32 gradients of the model on every
    rank, 4 bytes per parameter.
    """
    if isinstance(strategy, DDPStrategy) and not last:
        with strategy.block_backward_sync():
            yield
    else:
        yield


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, [] on every rank, also where they are sharded."""
    return full(torch.nn.utils.get_total_norm(list(tensors)))


def full(value: Tensor) -> Tensor:
    """The whole tensor of a sharded one."""
    return value.full_tensor() if isinstance(value, DTensor) else value
