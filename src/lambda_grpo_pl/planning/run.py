"""What memory depends on: the parts of a configuration that `plan` reads, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from transformers import PretrainedConfig

from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.sampling import VllmSettings

Strategy = Literal["single", "ddp", "fsdp2"]


class Placement(NamedTuple):
    """How ranks share the work."""

    strategy: Strategy
    """One device, a copy per rank (DDP), or shards (FSDP2)."""
    world_size: int
    """Number of ranks, one GPU each."""
    shards: int
    """Ranks over which weights, gradients and optimizer states are divided; 1 unless FSDP2."""
    offload: bool = False
    """Whether FSDP2 keeps shards in host memory."""
    bucket_views: bool = False
    """Whether DDP's gradients are views of its buckets, instead of copies beside them."""


class SamplingRequest(NamedTuple):
    """A batch of responses that is sampled at one time on one rank."""

    name: str
    """Training, or the validation set."""
    num_rows: int
    """Responses."""
    prompt_tokens: int
    """Longest prompt."""
    response_tokens: int
    """Longest response."""

    @property
    def longest_row(self) -> int:
        """Tokens of a prompt with its response."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run, as far as its memory is concerned."""

    config: PretrainedConfig
    """The model's configuration."""
    policy: PolicyConfig
    """Layout, adapters, checkpointing."""
    placement: Placement
    """How ranks share the work."""
    device: Literal["gpu", "cpu"]
    """Where it trains."""
    mixed_precision: bool
    """Whether arithmetic is in bfloat16 (`bf16-mixed`)."""
    training: SamplingRequest
    """One rollout on one rank."""
    evaluations: tuple[SamplingRequest, ...]
    """One batch of each validation set."""
    num_minibatches: int
    """Updates per pass over a rollout."""
    group_size: int
    """Responses per prompt."""
    separate_reference: bool
    """Whether a frozen reference is loaded beside the policy."""
    optimizer_states: Literal["float32", "8bit"]
    """Precision of AdamW's moments."""
    validation_rule: bool
    """Whether λ is tuned on held-out prompts, which takes a float32 pass and two copies of the weights."""
    fused: bool
    """Whether the head takes loss and gradient in one pass."""
    engine: VllmSettings | None
    """vLLM's settings; None for the transformers sampler."""

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch, as `LambdaGRPO.token_budget` chooses them."""
        return self.policy.tokens_per_micro_batch or (2048 if self.device == "cpu" else 16384)

    @property
    def keeps_shards_on_host(self) -> bool:
        """Whether FSDP2's shards are in host memory: offloaded, or of a run on the CPU."""
        return self.placement.strategy == "fsdp2" and (self.placement.offload or self.device == "cpu")
