"""LoRA adapters on their way to an engine: merged into the weights they adapt, or by themselves.

Merged, the engine is a plain one. By themselves only A and B travel, a hundredth of the bytes, and nothing is rounded
into a bfloat16 weight; but the engine multiplies by them at every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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
    """What an engine has to know before it can take adapters."""

    rank: int
    """The largest."""
    targets: tuple[str, ...]
    """Last part of the names of the adapted layers, such as `q_proj`."""


def is_adapter(name: str) -> bool:
    """Whether a tensor's name is that of an adapter's A or B."""
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def merged(weight: Tensor, layer: Any, name: str) -> Tensor:
    """Return base + Σ scaling·B·A over the adapters of peft's `layer` in use, summed in float32."""
    if layer.merged or layer.disable_adapters:
        return weight
    total = weight.float()
    for adapter in _in_use(layer, name):
        down, up = whole(layer.lora_A[adapter].weight), whole(layer.lora_B[adapter].weight)
        total = total + layer.scaling[adapter] * (up.float() @ down.float())
    return total.to(weight.dtype)


def adapter_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r] of each adapted layer.

    The scaling is multiplied into B, a copy, so that the engine needs no rule for it.
    """
    for name, layer, adapter in _adapted(model):
        yield f"{name}.lora_A.weight", whole(layer.lora_A[adapter].weight)
        yield f"{name}.lora_B.weight", whole(layer.lora_B[adapter].weight) * layer.scaling[adapter]


def adapter_layout(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Return name, whole shape and type of what `adapter_tensors` yields, without gathering anything."""
    return [
        (f"{name}.{part}.weight", weight.shape, weight.dtype)
        for name, layer, adapter in _adapted(model)
        for part, weight in (("lora_A", layer.lora_A[adapter].weight), ("lora_B", layer.lora_B[adapter].weight))
    ]


def plan_adapters(model: nn.Module) -> AdapterPlan:
    """Return what an engine has to know to take the adapters of `model`, the transformers model inside peft's wrapper.

    Raises `ValueError` if something else trains too, or what adapts is not one plain LoRA on each linear layer.
    """
    remedy = "set rollout.engine.lora_adapters to false, which merges them into the weights"
    layers = list(_adapted(model))
    if not layers:
        raise ValueError("rollout.engine.lora_adapters is true, but the policy has no adapters: set policy.lora.")
    others = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and not {"lora_A", "lora_B"} & set(name.split("."))
    ]
    if others:
        raise ValueError(f"Besides plain adapters {others[0]} trains too, which vLLM would not be sent: {remedy}.")
    targets = tuple(sorted({name.rpartition(".")[2] for name, _, _ in layers}))
    if "lm_head" in targets:
        raise ValueError(f"lm_head is adapted, which vLLM ignores silently: {remedy}.")
    return AdapterPlan(max(layer.r[adapter] for _, layer, adapter in layers), targets)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, peft's layer, adapter in use)."""
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and len(layer.lora_A):
            in_use = _in_use(layer, name)
            if len(in_use) != 1:
                raise ValueError(f"{name} has {len(in_use)} adapters in use: activate one.")
            yield name, layer, in_use[0]


def _in_use(layer: Any, name: str) -> list[str]:
    adapters = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    if layer.fan_in_fan_out or any(adapter in layer.lora_magnitude_vector for adapter in adapters):
        raise ValueError(f"The adapter on {name} is not a plain LoRA of a linear layer: train with use_dora=False.")
    return adapters
