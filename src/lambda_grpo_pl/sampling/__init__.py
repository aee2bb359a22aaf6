"""Samplers: prompts → completions, with the weights of the last sync."""

from lambda_grpo_pl.sampling.protocol import Sampler, SamplingSettings, SyncReport
from lambda_grpo_pl.sampling.transformers_sampler import TransformersSampler

__all__ = ["Sampler", "SamplingSettings", "SyncReport", "TransformersSampler"]
