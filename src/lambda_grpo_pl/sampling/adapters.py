"""How LoRA adapters reach an engine: merged into the weights they adapt, or sent separately.

Merged, the engine needs no LoRA support. Sent separately, only A and B travel, a hundredth of the bytes, and nothing is
rounded into a bfloat16 weight; but the engine multiplies by them at every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.errors import UserError

ADAPTER_PARTS = (
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "original_module",
)
"""Parts of names that hold an adapter, or the frozen original of a fully trained module."""


class AdapterPlan(NamedTuple):
    """What an engine must know before it can take adapters."""

    rank: int
    """The largest rank of an adapter."""
    targets: tuple[str, ...]
    """Last part of the names of the adapted layers, such as `q_proj`."""


def is_adapter(name: str) -> bool:
    """Return whether a tensor is an adapter's A or B, by its name."""
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the unsharded tensor, detached. Gathering a sharded one is collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def merge_adapters(weight: Tensor, layer: Any, name: str) -> Tensor:
    """Return base + Σ scaling·B·A over the active adapters of peft's `layer`, summed in float32."""
    if layer.merged or layer.disable_adapters:
        return weight
    total = weight.float()
    for adapter in _active_adapters(layer, name):
        down, up = full_tensor(layer.lora_A[adapter].weight), full_tensor(layer.lora_B[adapter].weight)
        total = total + layer.scaling[adapter] * (up.float() @ down.float())
    return total.to(weight.dtype)


def adapter_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r] of each adapted layer.

    The scaling is multiplied into B, a copy, so that the engine needs no rule for it.
    """
    for name, layer, adapter in _adapted_layers(model):
        yield f"{name}.lora_A.weight", full_tensor(layer.lora_A[adapter].weight)
        yield f"{name}.lora_B.weight", full_tensor(layer.lora_B[adapter].weight) * layer.scaling[adapter]


def adapter_layout(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Return name, whole shape and type of what `adapter_tensors` yields, without gathering tensors."""
    return [
        (f"{name}.{part}.weight", weight.shape, weight.dtype)
        for name, layer, adapter in _adapted_layers(model)
        for part, weight in (("lora_A", layer.lora_A[adapter].weight), ("lora_B", layer.lora_B[adapter].weight))
    ]


def plan_adapters(model: nn.Module) -> AdapterPlan:
    """Return what an engine must know to take the adapters of `model`, the transformers model inside peft's wrapper.

    Raises `UserError` if anything else is trainable, or an adapter is not one plain LoRA of a linear layer.
    """
    remedy = "set rollout.engine.lora_adapters to false, which merges them into the weights"
    layers = list(_adapted_layers(model))
    if not layers:
        raise UserError(
            "rollout.engine.lora_adapters is true, but the policy has no adapters: set model.policy.lora, or set "
            "rollout.engine.lora_adapters to false."
        )
    others = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and not {"lora_A", "lora_B"} & set(name.split("."))
    ]
    if others:
        raise UserError(f"{others[0]} is also trainable but would not be sent to vLLM: {remedy}.")
    targets = tuple(sorted({name.rpartition(".")[2] for name, _, _ in layers}))
    if "lm_head" in targets:
        raise UserError(f"lm_head has an adapter, which vLLM silently ignores: {remedy}.")
    return AdapterPlan(max(layer.r[adapter] for _, layer, adapter in layers), targets)


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, peft's layer, name of its active adapter)."""
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and len(layer.lora_A):
            active = _active_adapters(layer, name)
            if len(active) != 1:
                raise UserError(f"{name} has {len(active)} active adapters: activate exactly one.")
            yield name, layer, active[0]


def _active_adapters(layer: Any, name: str) -> list[str]:
    adapters = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    if layer.fan_in_fan_out or any(adapter in layer.lora_magnitude_vector for adapter in adapters):
        raise UserError(f"The adapter on {name} is not a plain LoRA of a linear layer: train with use_dora=False.")
    return adapters
