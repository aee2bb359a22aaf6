"""From a parsed configuration to what `planning` computes with."""

from __future__ import annotations

from typing import Any

import torch

from lambda_grpo_pl.callbacks.evaluation_settings import EvaluationSettings, plan_set
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.run import Placement, PlannedRun, SamplingRequest, Strategy
from lambda_grpo_pl.sampling import installed_vllm
from lambda_grpo_pl.training.module import LambdaGRPO
from lambda_grpo_pl.training.offload import check_backend


def sampling_requests(parts: Any, num_ranks: int) -> tuple[SamplingRequest, ...]:
    """Return what is sampled at one time on one rank: a rollout first, then a batch of each validation set.

    `parts` is the instantiated configuration: `data`, `rollout` and `evaluation` are read.
    """
    data: PromptDataModule = parts.data
    sampling, longest = parts.rollout.sampling, data.rules.max_prompt_tokens
    share = max(1, data.batch_size // num_ranks)
    requests = [SamplingRequest("training", share * sampling.num_samples, longest, sampling.max_tokens)]
    for source in data.val_sources:
        evaluation = parts.evaluation
        overrides = [evaluation.overrides, evaluation.benchmarks.get(source.name, EvaluationSettings())]
        settings = plan_set(source, overrides, sampling, parts.reward.suites.training.specs, 0).sampling
        rows = data.val_batch_size * settings.num_samples
        requests.append(SamplingRequest(source.name, rows, longest, settings.max_tokens))
    return tuple(requests)


def planned_run(trainer: Any, parts: Any, model_config: Any, on_gpu: bool, num_devices: int | None) -> PlannedRun:
    """Return the run that `plan` computes. Raises `UserError` for a placement in which it could not train.

    Args:
        trainer: Section of the parsed configuration.
        parts: The instantiated configuration without a trainer.
        model_config: The model's.
        on_gpu: Whether it trains on GPUs.
        num_devices: GPUs per node where `trainer.devices` leaves it open.
    """
    module: LambdaGRPO = parts.model
    sharding = module.policy_config.sharding
    placement = read_placement(trainer, num_devices, sharding.replicas, sharding.cpu_offload)
    if placement.strategy == "fsdp2" and on_gpu:
        arguments = {} if isinstance(trainer.strategy, str) else trainer.strategy.get("init_args") or {}
        check_backend(sharding, arguments.get("process_group_backend"))
    training, *evaluations = sampling_requests(parts, placement.world_size)
    surrogate = module.objective.surrogate
    name = parts.rollout.sampler_name
    uses_vllm = name == "vllm" or (name == "auto" and (on_gpu or installed_vllm() is not None))
    return PlannedRun(
        config=model_config,
        policy=module.policy_config,
        placement=placement,
        device="gpu" if on_gpu else "cpu",
        mixed_precision="bf16" in str(trainer.precision),
        training=training,
        evaluations=tuple(evaluations),
        num_minibatches=module.updates.num_minibatches,
        group_size=parts.rollout.sampling.num_samples,
        separate_reference=surrogate.kl_coef > 0 and module.policy_config.lora is None,
        optimizer_states=module.optimizer_config.states,
        validation_rule=module.preference.config.learn == "validation",
        fused=surrogate.is_elementwise,
        engine=parts.rollout.vllm if uses_vllm else None,
    )


def read_placement(trainer: Any, num_devices: int | None, replicas: int, offload: bool) -> Placement:
    """Return how the trainer's strategy places ranks. Raises `UserError` for one that this package does not support."""
    world_size = devices_per_node(trainer, num_devices) * int(trainer.num_nodes or 1)
    name = strategy_name(trainer)
    known: dict[str, Strategy] = {"ModelParallelStrategy": "fsdp2", "DDPStrategy": "ddp", "ddp": "ddp"}
    if name in ("auto", "SingleDeviceStrategy"):
        return Placement("single" if world_size == 1 else "ddp", world_size, 1)
    strategy = next((kind for prefix, kind in known.items() if name.startswith(prefix)), None)
    if strategy is None:
        raise UserError(
            f"trainer.strategy is {name}, which this package does not support: use one device (auto), ddp, or "
            "ModelParallelStrategy (FSDP2, see configs/strategy/fsdp2.yaml)."
        )
    if strategy == "ddp":
        arguments = {} if isinstance(trainer.strategy, str) else trainer.strategy.get("dict_kwargs") or {}
        views = arguments.get("gradient_as_bucket_view", False)
        return Placement("ddp", world_size, 1, bucket_views=bool(views))
    return Placement("fsdp2", world_size, max(1, world_size // replicas), offload)


def devices_per_node(trainer: Any, num_devices: int | None) -> int:
    """Return the number of devices on each node; `num_devices` where the configuration leaves it open."""
    devices = trainer.devices
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if str(devices) in ("auto", "-1"):
        return num_devices or max(1, torch.cuda.device_count())
    return int(devices)


def strategy_name(trainer: Any) -> str:
    """Return the strategy's short name or class name."""
    strategy = trainer.strategy
    return strategy if isinstance(strategy, str) else str(strategy.class_path).rpartition(".")[2]
