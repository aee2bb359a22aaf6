"""What it takes to build a sampler, in this process or in one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PretrainedConfig

from lambda_grpo_pl.sampling.adapters import AdapterPlan
from lambda_grpo_pl.sampling.protocol import Sampler
from lambda_grpo_pl.sampling.transformers_sampler import TransformersSampler
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm
from lambda_grpo_pl.sampling.vllm.engine import VllmSettings
from lambda_grpo_pl.sampling.vllm.sampler import VllmSampler

SamplerName = Literal["auto", "vllm", "transformers"]


@dataclass(kw_only=True)
class SamplerRecipe:
    """Picklable, and without a weight."""

    name: SamplerName
    """`auto` is vLLM where it is installed."""
    config: PretrainedConfig
    """The policy's."""
    eos_token_ids: tuple[int, ...]
    """What ends a response."""
    pad_token_id: int
    """What fills rows up."""
    engine: VllmSettings
    """Read by vLLM alone."""
    adapters: AdapterPlan | None = None
    """Send a LoRA policy's adapters by themselves; read by vLLM alone."""

    @property
    def uses_vllm(self) -> bool:
        """Whether vLLM samples."""
        return self.name == "vllm" or (self.name == "auto" and installed_vllm() is not None)

    @property
    def merges(self) -> bool:
        """Whether the sampler wants adapters merged into the weights."""
        return self.adapters is None or not self.uses_vllm

    def build(self, with_model: bool = False) -> Sampler:
        """Return the sampler; `with_model` gives the transformers sampler a model of its own to receive weights in.

        Raises `ValueError` if vLLM is asked for and cannot run.
        """
        if self.uses_vllm:
            return VllmSampler(self.config, self.eos_token_ids, self.pad_token_id, self.engine, self.adapters)
        config = self.config if with_model else None
        return TransformersSampler(self.eos_token_ids, self.pad_token_id, config=config)
