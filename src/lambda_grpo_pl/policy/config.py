"""What users say about the policy, checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Packing = Literal["auto", "packed", "shared_prefix", "padded"]


@dataclass(kw_only=True)
class LoraSettings:
    """Low-rank adapters through peft; the reference model is then the policy with its adapters off."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: float = 32.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapters. Keep 0: dropout makes trainer and sampler disagree."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers to adapt, or `all-linear`."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"policy.lora.rank is {self.rank}: set it to 1 or more, or set policy.lora to null.")


@dataclass(kw_only=True)
class PolicyConfig:
    """The language model that is trained and how its passes are laid out."""

    path: str
    """Hugging Face model id, a local folder, or `builtin:arithmetic-tiny`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
    reference_path: str | None = None
    """Frozen reference of the KL term; null takes the policy's initial weights. Loaded only if kl_coef > 0."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    packing: Packing = "auto"
    """`packed`: rows end to end without padding. `shared_prefix`: besides, each prompt once a group. `padded`: the
    fallback. `auto`: shared_prefix where it saves a fifth of the tokens, else packed; padded for other models."""
    tokens_per_micro_batch: int | None = None
    """Token budget of one forward and backward pass. Null: 16,384, and 2,048 on CPUs, whose caches hold no more."""
    head_chunk: int = 512
    """Response tokens whose logits exist at the same time."""
    compile: bool = False
    """torch.compile the transformer (not the head). On two CPU cores: 37 s to compile, then 9 % less time a step."""

    def __post_init__(self) -> None:
        for name in ("tokens_per_micro_batch", "head_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"policy.{name} is {value}: set it to 1 or more.")
