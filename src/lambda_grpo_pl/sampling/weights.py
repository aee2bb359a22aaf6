"""The policy's weights as an engine wants them: whole tensors under Hugging Face names.

Sharded tensors (FSDP2, tensor parallel) are gathered one at a time, LoRA adapters are merged on the fly, and wrappers
leave no trace in the names. The policy itself is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and activation checkpointing put into the names of parameters."""
_ADAPTER_PARTS = ("lora_A", "lora_B", "lora_magnitude_vector", "original_module")
"""Parts of names that hold an adapter, or the frozen original of a fully trained module."""


def base_model(policy: nn.Module) -> nn.Module:
    """Return the transformers model inside peft's wrapper, or the policy itself."""
    unwrap = getattr(policy, "get_base_model", None)
    inner: nn.Module = unwrap() if unwrap is not None else policy
    return inner


@torch.no_grad()
def policy_weights(policy: nn.Module, changed_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield (Hugging Face name, whole tensor) for each tensor of the policy's state.

    Tied tensors come under each of their names: vLLM packs `lm_head.weight` into a copy of its own on CPUs, which goes
    stale, silently, unless it is sent too. Every rank must exhaust the iterator, since gathering is collective.

    Args:
        policy: A transformers model, plain, sharded or wrapped by peft (LoRA on linear layers).
        changed_only: Leave out modules in which nothing trains. Where one tensor of a module trains, its siblings come
            too, because engines fuse them (query, key and value; gate and up).

    Raises:
        ValueError: For adapters that are not a plain `base + scaling·B·A` on a linear layer.
    """
    modules = {_plain(name): module for name, module in base_model(policy).named_modules()}
    for name, tensor in _selected(policy, changed_only).items():
        weight = _whole(tensor)
        if name.endswith(".base_layer.weight"):
            weight = _merged(weight, modules[name.removesuffix(".base_layer.weight")], name)
        yield _hugging_face_name(name), weight


def weight_names(policy: nn.Module, changed_only: bool = False) -> list[str]:
    """Return the names that `policy_weights` yields, without gathering a tensor."""
    return [_hugging_face_name(name) for name in _selected(policy, changed_only)]


def weight_layout(policy: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Return name, whole shape and type of each tensor that `policy_weights` yields, without gathering one."""
    return [(_hugging_face_name(name), tensor.shape, tensor.dtype) for name, tensor in _selected(policy, False).items()]


def _selected(policy: nn.Module, changed_only: bool) -> dict[str, Tensor]:
    """Return the state without adapters, by plain name."""
    model = base_model(policy)
    state = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    named = model.named_parameters(remove_duplicate=False)  # a tied head trains under both of its names
    trained = {_family(_plain(name)) for name, weight in named if weight.requires_grad}
    return {
        name: tensor
        for name, tensor in state.items()
        if not any(part in _ADAPTER_PARTS for part in name.split("."))
        and (not changed_only or _family(name) in trained)
    }


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _hugging_face_name(name: str) -> str:
    parts = name.replace(".base_layer.", ".").split(".")
    if "modules_to_save" in parts:  # `lm_head.modules_to_save.default.weight`
        del parts[parts.index("modules_to_save") : parts.index("modules_to_save") + 2]
    return ".".join(parts)


def _family(name: str) -> str:
    """The module two levels above a tensor, `…layers.0.self_attn` for `…layers.0.self_attn.q_proj.lora_A.…`."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part in (*_ADAPTER_PARTS, "base_layer", "modules_to_save"):
            parts = [*parts[:index], "weight"]
            break
    return ".".join(parts[:-2]) or parts[0]


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def _merged(weight: Tensor, layer: Any, name: str) -> Tensor:
    """Return base + Σ scaling·B·A over the adapters of peft's `layer` in use, summed in float32."""
    if layer.merged or layer.disable_adapters:
        return weight
    adapters = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    if layer.fan_in_fan_out or any(adapter in layer.lora_magnitude_vector for adapter in adapters):
        raise ValueError(f"The adapter on {name} is not a plain LoRA of a linear layer: train with use_dora=False.")
    merged = weight.float()
    for adapter in adapters:
        down, up = _whole(layer.lora_A[adapter].weight), _whole(layer.lora_B[adapter].weight)
        merged = merged + layer.scaling[adapter] * (up.float() @ down.float())
    return merged.to(weight.dtype)
