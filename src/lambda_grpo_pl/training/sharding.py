"""Splitting the policy over GPUs (FSDP2), and exchanging gradients between ranks once an update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from lambda_grpo_pl.policy import Policy


def shard_policy(policy: Policy, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard each transformer layer and the rest of the policy over the data-parallel dimension of `mesh`, in place.

    `dtype` is what parameters are computed in (None: float32 as stored); master weights, gradients and optimizer states
    stay float32. The head shares the root's group, so its weight is whole inside `Policy.forward`.

    Raises `ValueError` for a mesh with a tensor-parallel dimension: ranks along it would train on different prompts
    unreduced.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"The strategy splits layers over {mesh['tensor_parallel'].size()} ranks, which this policy does not "
            "support: set ModelParallelStrategy's tensor_parallel_size to 1 and data_parallel_size to the number "
            "of ranks."
        )
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    data_mesh = mesh["data_parallel"]
    layer_names = set(policy.causal_lm._no_split_modules or [])
    for module in policy.modules():
        if type(module).__name__ in layer_names:
            fully_shard(module, mesh=data_mesh, mp_policy=precision)
    fully_shard(policy, mesh=data_mesh, mp_policy=precision)


@contextmanager
def sync_gradients(strategy: Strategy, policy: Policy, last: bool) -> Iterator[None]:
    """Let one backward pass exchange gradients between ranks only if it is the `last` of an update."""
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(last)
        yield
    elif isinstance(strategy, DDPStrategy) and not last:
        with strategy.block_backward_sync():
            yield
    else:
        yield
