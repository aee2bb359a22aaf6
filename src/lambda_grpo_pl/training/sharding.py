"""Splitting the policy over GPUs (FSDP2), and exchanging gradients between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy, Reference, ShardingSettings
from lambda_grpo_pl.training.leaving import leave_calmly

DERIVED = (DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy)
"""Lightning derives these from supported strategies, but they exchange or clip gradients in their own ways."""


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies under which gradients or their norm would be wrong. Raises `UserError`."""
    supported = isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy)
    if not supported or isinstance(strategy, DERIVED):
        raise UserError(
            f"trainer.strategy is {type(strategy).__name__}, which this package does not support: use one device "
            "(auto), ddp, or ModelParallelStrategy (FSDP2, see configs/strategy/fsdp2.yaml)."
        )


def prepare_strategy(trainer: Trainer) -> None:
    """Check the trainer's strategy, let its ranks exit calmly and evaluate sharded policies. Raises `UserError`.

    FSDP2 keeps the parameters that it gathers. Those of a `trainer.validate` would be inference tensors, which a fit
    that follows in the same process cannot write to, so evaluation runs under `no_grad` instead.
    """
    check_strategy(trainer.strategy)
    if trainer.world_size > 1:
        leave_calmly()
    if isinstance(trainer.strategy, ModelParallelStrategy):
        for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False


def shard_policies(
    policy: Policy,
    references: Sequence[Reference],
    mesh: DeviceMesh,
    settings: ShardingSettings,
    dtype: torch.dtype | None,
) -> None:
    """Shard the policy, and the reference if it is a model of its own, with the weights that the first rank has read.

    `dtype` is the policy's (`shard_policy`).
    """
    models = [(policy, dtype), *((reference, None) for reference in references if isinstance(reference, Policy))]
    for model, computed_in in models:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        shard_policy(model, mesh, settings, computed_in)
        broadcast_weights(model, weights if dist.get_rank() == 0 else None, torch.device(mesh.device_type))


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


@torch.no_grad()
def broadcast_weights(policy: Policy, weights: Mapping[str, Tensor] | None, device: torch.device) -> None:
    """Give every rank its shards of the first rank's weights, and its buffers, one tensor at a time.

    So only the first rank reads the checkpoint, and no other holds more than one whole tensor.

    Args:
        policy: A sharded policy; call this on every rank.
        weights: Whole parameters by name, as they were before sharding, on the first rank; None on the others.
        device: Where the ranks' backend exchanges tensors.
    """
    for name, parameter in policy.named_parameters():
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if weights is not None:
            whole = weights[name].to(device).contiguous()
        dist.broadcast(whole, src=0)
        assert isinstance(parameter, DTensor)
        shard = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(shard.to_local())
    for _, buffer in policy.named_buffers():
        whole = buffer.to(device, copy=True).contiguous()
        dist.broadcast(whole, src=0)
        buffer.copy_(whole)


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


def gathered_dtype(trainer: Any, learn: str) -> torch.dtype | None:
    """The type in which FSDP2 may gather weights: bfloat16, or None: as they are stored.

    The virtual step on held-out prompts is taken in float32, so it needs whole float32 weights: autocast rounds them
    for all other passes. Gathering them takes twice the traffic.
    """
    heldout = getattr(getattr(trainer, "datamodule", None), "heldout_source", None) is not None
    return torch.bfloat16 if "bf16" in trainer.precision and not (heldout or learn == "validation") else None


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
