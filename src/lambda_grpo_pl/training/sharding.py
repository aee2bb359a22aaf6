"""Splitting the policy over GPUs (FSDP2), and exchanging gradients between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies under which gradients or their norm would be wrong. Raises `UserError`."""
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise UserError(
            f"trainer.strategy is {type(strategy).__name__}, which this package does not support: use one device "
            "(auto), ddp, or ModelParallelStrategy (FSDP2, see configs/strategy/fsdp2.yaml)."
        )


def shard_policy(policy: Policy, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard each transformer layer and the rest of the policy over the data-parallel dimension of `mesh`, in place.

    `dtype` is what parameters are gathered and computed in (None: float32, as stored); master weights, gradients and
    optimizer states stay float32. The head shares the root's group, so its weight is whole inside `Policy.forward`.

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
    data_mesh = mesh["data_parallel"]
    layer_names = set(policy.causal_lm._no_split_modules or [])
    for module in policy.modules():
        if type(module).__name__ in layer_names:
            fully_shard(module, mesh=data_mesh, mp_policy=precision)
    fully_shard(policy, mesh=data_mesh, mp_policy=precision)


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
