"""The policy's optimizer, its learning-rate schedule and its gradient clipping. λ's optimizer is in `module`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.training.config import OptimizerConfig
from lambda_grpo_pl.training.sharding import full


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """AdamW over the trainable parameters, its states in float32 or in 8 bits.

    Raises `UserError` if the states need torchao and it is not installed.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.states == "float32":
        return AdamW(trainable, **settings, fused=True)
    try:
        torchao = importlib.import_module("torchao.optim")
    except ImportError as error:
        raise UserError(
            f"model.optimizer.states is {config.states}, which needs torchao: pip install "
            "'lambda-grpo-pl[low-memory]', or set it to float32."
        ) from error
    return cast(Optimizer, torchao.AdamW8bit(trainable, **settings))


def learning_rate_factor(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at update `step` (from 0) of `num_steps` (−1: unknown, no decay).

    Unlike in `transformers.get_scheduler`, no update has a learning rate of 0: the warm-up starts at 1 / warmup_steps.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant" or num_steps <= config.warmup_steps:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / (num_steps - config.warmup_steps))
    return 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def make_scheduler(optimizer: Optimizer, num_steps: int, config: OptimizerConfig) -> LambdaLR:
    """The schedule, to be stepped once per update."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps, config))


def clip_gradient(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradient down to `max_norm`; returns the norm before, over all shards where gradients are sharded.

    A gradient whose norm is not finite is dropped on every rank, so the step that follows changes no weight.
    """
    clipped = list(parameters)
    norm = full(torch.nn.utils.clip_grad_norm_(clipped, max_norm))
    if not torch.isfinite(norm):
        for parameter in clipped:
            parameter.grad = None
    return norm


def ascend(parameters: Sequence[nn.Parameter], slopes: Sequence[Tensor]) -> None:
    """Set gradients whose descent ascends along `slopes`, or none at all if a slope is not finite."""
    finite = all(bool(slope.isfinite().all()) for slope in slopes)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = -slope if finite else None
