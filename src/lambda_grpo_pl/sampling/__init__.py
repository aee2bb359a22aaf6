"""Samplers: prompts → completions, with the weights of the last sync. vLLM is imported when its sampler is built."""

from lambda_grpo_pl.sampling.adapters import AdapterPlan, plan_adapters
from lambda_grpo_pl.sampling.factory import SamplerName, SamplerRecipe
from lambda_grpo_pl.sampling.process.client import SamplerProcess
from lambda_grpo_pl.sampling.protocol import OnGroup, Sampler, SamplingSettings, SyncReport
from lambda_grpo_pl.sampling.selftest import SyncError, check_sync, probe_sequences
from lambda_grpo_pl.sampling.transformers_sampler import TransformersSampler
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm, require_vllm
from lambda_grpo_pl.sampling.vllm.engine import VllmSettings
from lambda_grpo_pl.sampling.vllm.sampler import VllmSampler
from lambda_grpo_pl.sampling.weights import policy_weights

__all__ = [
    "AdapterPlan",
    "OnGroup",
    "Sampler",
    "SamplerName",
    "SamplerProcess",
    "SamplerRecipe",
    "SamplingSettings",
    "SyncError",
    "SyncReport",
    "TransformersSampler",
    "VllmSampler",
    "VllmSettings",
    "check_sync",
    "installed_vllm",
    "plan_adapters",
    "policy_weights",
    "probe_sequences",
    "require_vllm",
]
