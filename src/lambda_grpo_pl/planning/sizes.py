"""Parameters of a policy, counted on the meta device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import PretrainedConfig

from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.policy.loading import build_on_meta


class ModelSize(NamedTuple):
    """Numbers of parameters, shared ones once."""

    total: int
    """All, adapters included."""
    trainable: int
    """Those that are trained."""
    stored_bytes: int
    """Bytes in which they are stored."""
    layer: int
    """The largest group that FSDP2 gathers at a time: one transformer layer."""
    root: int
    """Everything outside of layers: embedding, head, last norm."""
    head: int
    """Weight of the head, V × H."""


def measure_model(config: PretrainedConfig, settings: PolicyConfig, frozen_dtype: torch.dtype) -> ModelSize:
    """Count the policy's parameters; under LoRA frozen ones are in `frozen_dtype`, all others in float32."""
    model = build_on_meta(config, settings, torch.float32, None)
    base = model.get_base_model() if settings.lora is not None else model
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen_width = frozen_dtype.itemsize if settings.lora is not None else 4
    names = set(base._no_split_modules or [])
    layers = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in model.modules()
        if type(module).__name__ in names
    ]
    output = base.get_output_embeddings()
    return ModelSize(
        total=total,
        trainable=trainable,
        stored_bytes=4 * trainable + frozen_width * (total - trainable),
        layer=max(layers, default=0),
        root=total - sum(layers),
        head=0 if output is None else output.weight.numel(),
    )
