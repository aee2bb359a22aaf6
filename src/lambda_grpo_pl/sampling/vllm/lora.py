"""vLLM's own LoRA support, fed from tensors, although its interface loads adapters from files only.

Verified with vLLM 0.32: `load_lora_model` leaves a manager on the model, which accepts an adapter made of tensors.
Requests then name it, and its path is never read. vLLM's punica kernels pad every adapter to `max_lora_rank`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.adapters import AdapterPlan

FIRST_VERSION = "0.32"
"""Earlier versions use other names for base weights and ignore scalings that differ between layers."""
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as `max_lora_rank`."""
_ADAPTER = 1


def engine_arguments(plan: AdapterPlan | None, version: str | None) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` that make it take adapters.

    Raises `UserError` if the version or the rank is out of range.
    """
    if plan is None:
        return {}
    remedy = "set rollout.engine.lora_adapters to false, which merges adapters into the weights"
    if version is None or Version(version) < Version(FIRST_VERSION):
        raise UserError(f"Sending adapters separately requires vLLM {FIRST_VERSION} or later: update it, or {remedy}.")
    if plan.rank > MAX_RANKS[-1]:
        raise UserError(f"The adapters' rank is {plan.rank}, but vLLM takes at most {MAX_RANKS[-1]}: {remedy}.")
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(rank for rank in MAX_RANKS if rank >= plan.rank),
        # Otherwise other layers, such as embeddings, are wrapped too, and prompts can no longer be scored.
        "lora_target_modules": list(plan.targets),
    }


def request() -> Any:
    """Return vLLM's request object that selects the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name="policy", lora_int_id=_ADAPTER, lora_path="in memory")


def load_adapter(llm: Any, tensors: Mapping[str, Tensor]) -> None:
    """Replace the adapter by `tensors`, whose names and shapes are those of `adapter_tensors`."""
    assert all(llm.apply_model(partial(_activate, tensors=dict(tensors)))), "vLLM did not activate the adapter"


def _activate(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    manager: Any = model.lora_manager
    rank = max(weight.shape[0] for name, weight in tensors.items() if name.endswith(".lora_A.weight"))
    unscaled = PEFTHelper(r=rank, lora_alpha=rank, target_modules=[])
    adapter = LoRAModel.from_lora_tensors(
        _ADAPTER, tensors, unscaled, device="cpu", dtype=manager.lora_config.lora_dtype
    )
    manager.remove_adapter(_ADAPTER)
    manager.add_adapter(adapter)
    return bool(manager.activate_adapter(_ADAPTER))
