"""The policy's weights as engines and the export read them: unsharded tensors under transformers' names.

Sharded tensors (FSDP2, tensor parallel) are gathered one at a time, LoRA adapters are merged on the fly or sent
separately (`adapters`), and wrappers leave no trace in the names. The policy itself is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lambda_grpo_pl.sampling.adapters import ADAPTER_PARTS, adapter_layout, adapter_tensors, full_tensor, merge_adapters

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and activation checkpointing add to the names of parameters."""


def is_distributed() -> bool:
    """Return whether this process is one of several ranks."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def base_model(policy: nn.Module) -> nn.Module:
    """Return the transformers model inside peft's wrapper, or the policy itself."""
    unwrap = getattr(policy, "get_base_model", None)
    inner: nn.Module = unwrap() if unwrap is not None else policy
    return inner


@torch.no_grad()
def policy_weights(policy: nn.Module, changed_only: bool = False, merge: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, unsharded tensor) for each tensor of the policy's state.

    Tied tensors come under each of their names: vLLM packs `lm_head.weight` into a separate copy on CPUs, which goes
    stale silently unless it is sent too. Every rank must exhaust the iterator, since gathering is collective.

    Args:
        policy: A transformers model, plain, sharded or wrapped by peft (LoRA on linear layers).
        changed_only: Leave out modules in which nothing is trainable. Where one tensor of a module is trainable, its
            siblings are yielded too, because engines fuse them (query, key and value; gate and up).
        merge: Add adapters to the weights they adapt. Otherwise the adapters follow the weights separately
            (`adapter_tensors`), and nothing else is expected to change.

    Raises:
        UserError: For adapters that are not a plain `base + scaling·B·A` on a linear layer.
    """
    model = base_model(policy)
    modules = {_plain(name): module for name, module in model.named_modules()}
    for name, tensor in _selected(model, changed_only, merge).items():
        weight = full_tensor(tensor)
        if merge and name.endswith(".base_layer.weight"):
            weight = merge_adapters(weight, modules[name.removesuffix(".base_layer.weight")], name)
        yield _hugging_face_name(name), weight
    if not merge:
        yield from ((_plain(name), tensor) for name, tensor in adapter_tensors(model))


def weight_names(policy: nn.Module, changed_only: bool = False, merge: bool = True) -> list[str]:
    """Return the names that `policy_weights` yields, without gathering a tensor."""
    return [name for name, _, _ in weight_layout(policy, changed_only, merge)]


def weight_layout(
    policy: nn.Module, changed_only: bool = False, merge: bool = True
) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Return name, unsharded shape and type of each tensor that `policy_weights` yields, without gathering tensors."""
    model = base_model(policy)
    state = _selected(model, changed_only, merge)
    layout = [(_hugging_face_name(name), tensor.shape, tensor.dtype) for name, tensor in state.items()]
    return layout if merge else layout + [(_plain(name), shape, dtype) for name, shape, dtype in adapter_layout(model)]


def _selected(model: nn.Module, changed_only: bool, merge: bool) -> dict[str, Tensor]:
    """Return the state without adapters, by plain name; nothing where only separately sent adapters change."""
    if changed_only and not merge:
        return {}
    state = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    named = model.named_parameters(remove_duplicate=False)  # a tied head trains under both of its names
    trained = {_family(_plain(name)) for name, weight in named if weight.requires_grad}
    return {
        name: tensor
        for name, tensor in state.items()
        if not any(part in ADAPTER_PARTS for part in name.split(".")) and (not changed_only or _family(name) in trained)
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
    """Return the module two levels above a tensor, `…layers.0.self_attn` for `…layers.0.self_attn.q_proj.lora_A.…`."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part in (*ADAPTER_PARTS, "base_layer", "modules_to_save"):
            parts = [*parts[:index], "weight"]
            break
    return ".".join(parts[:-2]) or parts[0]
