"""The `rollout.engine` section: how the vLLM engine is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lambda_grpo_pl.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_CONTEXT = 4096
"""Context length where neither the settings nor the caller says how much is needed."""


@dataclass(kw_only=True)
class VllmSettings:
    """How the engine is built. Other samplers ignore this section."""

    dtype: str = "auto"
    """Type the engine computes in: float32, bfloat16 or float16. `auto` is bfloat16 on GPUs and float32 on CPUs."""
    max_model_len: int | None = None
    """Longest prompt plus response in tokens, at most what the model allows. Null takes what the data and the sampling
    settings need."""
    max_num_seqs: int = 256
    """Responses decoded at a time."""
    enforce_eager: bool | Literal["auto"] = "auto"
    """Skip graph capture and compilation: the engine starts in seconds but decodes more slowly on GPUs. `auto` is false
    on GPUs and true on CPUs."""
    kv_cache_gib: float | None = None
    """Memory of the key-value cache. Null is 1 GiB on CPUs and what `gpu_memory_utilization` leaves on GPUs."""
    gpu_memory_utilization: float = 0.3
    """Share of a GPU's memory that the engine takes, weights included; the rest is for training."""
    sleep: bool = False
    """Move the engine's weights to host memory and free its key-value cache while the policy trains (GPUs only)."""
    lora_adapters: bool = False
    """Send LoRA adapters separately, and let the engine multiply by them at every token, instead of merging them into
    its weights. A sync is then much shorter and nothing is rounded into a bfloat16 weight, but sampling on CPUs takes
    several times as long."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(
                f"rollout.engine.dtype is {self.dtype!r}: set it to {', '.join(DTYPES[:-1])} or {DTYPES[-1]}."
            )
        if not 0 < self.gpu_memory_utilization < 1:
            raise UserError(
                f"rollout.engine.gpu_memory_utilization is {self.gpu_memory_utilization}: set it between 0 and 1."
            )
        if self.max_model_len is not None and self.max_model_len < 2:
            raise UserError(f"rollout.engine.max_model_len is {self.max_model_len}: set it to 2 or more, or to null.")
        if self.max_num_seqs < 1:
            raise UserError(f"rollout.engine.max_num_seqs is {self.max_num_seqs}: set it to 1 or more.")

    def check_gpu(self, is_there: bool) -> None:
        """Refuse what only a GPU can do where there is none. Raises `UserError`."""
        if self.sleep and not is_there:
            raise UserError("rollout.engine.sleep is true, but there is no GPU: set it to false.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type the engine computes in on this machine."""
        automatic = "bfloat16" if torch.cuda.is_available() else "float32"
        dtype: torch.dtype = getattr(torch, automatic if self.dtype == "auto" else self.dtype)
        return dtype

    @property
    def eager(self) -> bool:
        """Whether the engine skips graph capture on this machine."""
        return not torch.cuda.is_available() if self.enforce_eager == "auto" else self.enforce_eager

    @property
    def kv_cache_bytes(self) -> int | None:
        """Bytes of the key-value cache; None leaves it to vLLM."""
        if self.kv_cache_gib is not None:
            return int(self.kv_cache_gib * 2**30)
        return None if torch.cuda.is_available() else 2**30

    def context_length(self, needed: int | None, model_max_positions: int) -> int:
        """Return the engine's `max_model_len`: as set, else what is `needed`, and at most what the model allows."""
        return min(self.max_model_len or needed or DEFAULT_CONTEXT, model_max_positions)
