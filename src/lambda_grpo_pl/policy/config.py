"""What users say about the policy, checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from lambda_grpo_pl.errors import UserError

Packing = Literal["auto", "packed", "shared_prefix", "padded"]
BaseDtype = Literal["auto", "float32", "bfloat16"]


@dataclass(kw_only=True)
class LoraSettings:
    """Low-rank adapters through peft (arXiv:2106.09685); the reference is then the policy with its adapters off."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: float = 32.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapters. Keep 0: dropout makes trainer and sampler disagree."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers to adapt, or `all-linear`."""
    base_dtype: BaseDtype = "auto"
    """Type of the frozen base weights. `auto`: bfloat16 with trainer.precision bf16-mixed, which saves half of their
    memory; else float32. Adapters are always float32."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(
                f"model.policy.lora.rank is {self.rank}: set it to 1 or more, or set model.policy.lora to null."
            )

    def resolve_base_dtype(self, compute_dtype: torch.dtype) -> torch.dtype:
        """Type of the frozen weights when training computes in `compute_dtype`."""
        return {"auto": compute_dtype, "float32": torch.float32, "bfloat16": torch.bfloat16}[self.base_dtype]


@dataclass(kw_only=True)
class ShardingSettings:
    """How FSDP2 divides the policy (`ModelParallelStrategy`); other strategies ignore it."""

    replicas: int = 1
    """Copies of the sharded policy (hybrid sharding). Each is divided over as many neighboring ranks, so
    trainer.num_nodes gathers weights inside nodes only."""
    cpu_offload: bool = False
    """Keep shards and optimizer states in host memory: less GPU memory, much more time."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UserError(f"model.policy.sharding.replicas is {self.replicas}: set it to 1 or more.")


@dataclass(kw_only=True)
class PolicyConfig:
    """The language model to train, and the layout of its passes."""

    path: str
    """Hugging Face model id, a local folder, or a built-in model (`builtin:arithmetic-tiny`)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
    reference_path: str | None = None
    """Frozen reference of the KL term; null takes the policy's initial weights. Loaded only if kl_coef > 0."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    sharding: ShardingSettings = field(default_factory=ShardingSettings)
    """How FSDP2 divides the weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    packing: Packing = "auto"
    """`packed`: rows end to end without padding. `shared_prefix`: also compute each prompt once per group. `padded`:
    one padded row per response. `auto`: shared_prefix where it saves a fifth of the tokens, else packed; padded for
    models that cannot be packed exactly."""
    tokens_per_micro_batch: int | None = None
    """Token budget of one forward and backward pass. Null: 16,384, or 2,048 on CPUs, whose caches are small."""
    head_chunk: int = 512
    """Number of response tokens whose logits exist at the same time."""
    compile: bool = False
    """Run the transformer (not the head) through torch.compile. The first steps are slow; later ones are faster."""

    def __post_init__(self) -> None:
        for name in ("tokens_per_micro_batch", "head_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"model.policy.{name} is {value}: set it to 1 or more.")
