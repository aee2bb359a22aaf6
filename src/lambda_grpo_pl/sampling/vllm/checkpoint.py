"""Names and shapes of weights as published checkpoints have them, which are what vLLM loads.

transformers keeps the experts of a mixture as one tensor per layer and renames modules of some architectures; its own
`save_pretrained` undoes that with the conversions of the model class, and so does this module, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

EXPERTS = ".experts."
"""Part of the names of an expert's tensors."""


class CheckpointFormat:
    """Converts tensors from the policy's names to the checkpoint's."""

    def __init__(self, config: Any) -> None:
        """Look up the conversions for the transformers configuration `config`."""
        self.model_type: str = config.model_type
        # A copy, since from_config notes the attention in the configuration, which the policy shares; and an attention
        # that is always known, since the policy's may not be registered in this process.
        with torch.device("meta"):
            self._model: Any = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager")
        self.architecture = type(self._model).__name__
        self._converts = bool(get_model_conversion_mapping(self._model, add_legacy=False))

    @property
    def policy_names(self) -> set[str]:
        """The policy's names of all its tensors; a tied head counts under its own name."""
        return set(self._model.state_dict())

    def convert(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield (checkpoint's name, tensor) for (policy's name, tensor); one fused tensor may become many."""
        for name, weight in weights:
            if self._converts:
                yield from revert_weight_conversion(self._model, {name: weight}).items()
            else:
                yield name, weight

    def names(self, names: Iterable[str]) -> set[str]:
        """Return the checkpoint's names of the policy's tensors `names`."""
        shapes = self._model.state_dict() if self._converts else {}
        empty = torch.empty(0, device="meta")
        return {name for name, _ in self.convert((name, shapes.get(name, empty)) for name in names)}


def missing_names(engine: Collection[str], sent: Collection[str]) -> list[str]:
    """Return the names of `engine` (from `checkpoint_names`) that are not among the checkpoint's names `sent`.

    An engine stacks the experts of a layer: its tensor counts as sent if any expert of that layer was.
    """
    stacked = {name.partition(EXPERTS)[0] for name in sent if EXPERTS in name}
    return [
        name for name in engine if name not in sent and not (EXPERTS in name and name.partition(EXPERTS)[0] in stacked)
    ]


def own_names(model: nn.Module) -> Any:
    """Return vLLM's map from a checkpoint's names to its own, without the stacking of q, k and v; None if none differs.

    `apply_list` of the result leaves out tensors that vLLM ignores.
    """
    mapper: Any = getattr(model, "hf_to_vllm_mapper", None)
    return mapper and replace(mapper, **{"orig_to_new_stacked": {}} if hasattr(mapper, "orig_to_new_stacked") else {})


def checkpoint_names(model: nn.Module) -> list[str]:
    """Name vLLM's tensors as checkpoints do: `qkv_proj` becomes `q_proj`, `k_proj` and `v_proj`."""
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    names = []
    for name, _ in model.named_parameters(remove_duplicate=False):
        name = name.replace(".base_layer.", ".")  # vLLM's name for a layer that takes adapters
        name = name.replace(".shared_expert.expert_gate.", ".shared_expert_gate.")  # one gate under two names (Qwen)
        parts = name.split(".")
        fused = next((part for part in parts if part in packed), None)
        names += [name] if fused is None else [name.replace(fused, part) for part in packed[fused]]
    return names
