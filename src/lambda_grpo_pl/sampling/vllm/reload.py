"""Replacing the weights of a running vLLM engine in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.vllm.checkpoint import EXPERTS
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm


def reload_weights(llm: Any, weights: Iterable[tuple[str, Tensor]], model_type: str) -> None:
    """Replace weights of `llm` by (checkpoint's name, tensor) pairs.

    Raises `UserError` if vLLM fails on this architecture; errors of `weights` itself are raised unchanged.
    """
    own_errors: list[BaseException] = []
    experts: list[str] = []

    def watched() -> Iterator[tuple[str, Tensor]]:
        try:
            for name, weight in weights:
                if EXPERTS in name:
                    experts.append(name)
                yield name, weight
        except Exception as error:
            own_errors.append(error)
            raise

    try:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": watched()})
        if experts and not torch.cuda.is_available():
            llm.apply_model(prepack_experts)
    except (AttributeError, ValueError, KeyError, RuntimeError) as error:
        if error in own_errors:
            raise
        raise UserError(
            f"vLLM {installed_vllm()} cannot reload the weights of {model_type} models in place ({error}): set "
            "rollout.sampler to transformers."
        ) from error


def prepack_experts(model: nn.Module) -> None:
    """Bring reloaded experts into the layout that vLLM's CPU kernels read.

    vLLM 0.32 does so when it loads a model, but not when it reloads one. Call it once after each reload of experts.
    """
    for layer in model.modules():
        kernel: Any = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None and hasattr(layer, "w13_weight"):
            kernel.fused_experts.process_weights_after_loading(layer)
