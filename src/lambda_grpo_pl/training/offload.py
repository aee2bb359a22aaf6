"""Whether ranks can exchange weights and gradients that FSDP2 keeps in host memory."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import ShardingSettings

OFFLOAD_BACKEND = "cpu:gloo,cuda:nccl"
"""Process group whose ranks exchange what is in host memory too."""


def check_offload(settings: ShardingSettings, strategy: Strategy) -> None:
    """Refuse offloaded shards of GPUs that exchange nothing in host memory. Raises `UserError`."""
    if isinstance(strategy, ModelParallelStrategy) and strategy.root_device.type == "cuda":
        check_backend(settings, strategy.process_group_backend)


def check_backend(settings: ShardingSettings, backend: str | None) -> None:
    """Refuse offloaded shards of GPUs whose process group has no backend for the CPU. Raises `UserError`.

    The norm of an offloaded gradient is summed over the ranks on the CPU, so the first update would fail, after a whole
    rollout. `backend` is the strategy's; None is Lightning's default.
    """
    backend = backend or "nccl"
    serves_cpu = any(part.startswith("cpu:") for part in backend.split(",")) or backend in ("gloo", "mpi")
    if settings.cpu_offload and not serves_cpu:
        raise UserError(
            "model.policy.sharding.cpu_offload is true, but trainer.strategy.init_args.process_group_backend is "
            f"{backend}, which exchanges nothing in host memory: set that to {OFFLOAD_BACKEND}, as "
            "configs/strategy/cpu_offload.yaml does, or cpu_offload to false."
        )
