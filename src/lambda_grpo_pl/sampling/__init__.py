"""Samplers: prompts → completions, with the weights of the last sync. vLLM is imported when its sampler is built."""

from lambda_grpo_pl.sampling.adapters import AdapterPlan, plan_adapters
from lambda_grpo_pl.sampling.completions import InvalidSampleError, check_shapes
from lambda_grpo_pl.sampling.context import check_context
from lambda_grpo_pl.sampling.factory import SamplerBuilder, SamplerName, engine_settings, runs_remote_code, uses_vllm
from lambda_grpo_pl.sampling.probe import SyncProbe, context_switch, plan_probe, probe_sequences
from lambda_grpo_pl.sampling.process.client import SamplerProcess
from lambda_grpo_pl.sampling.protocol import OnGroup, ReceivingSampler, RestartableSampler, Sampler, SyncReport
from lambda_grpo_pl.sampling.recovery import Recovery, RecoverySettings, SamplingCall
from lambda_grpo_pl.sampling.selftest import RememberedLogprobs, SyncError, UsualGap, check_sync
from lambda_grpo_pl.sampling.server.sampler import ServerSampler
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.transformers_sampler import TransformersSampler
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm, require_vllm
from lambda_grpo_pl.sampling.vllm.sampler import VllmSampler
from lambda_grpo_pl.sampling.vllm.settings import DEFAULT_CONTEXT, VllmSettings
from lambda_grpo_pl.sampling.weights import policy_weights
from lambda_grpo_pl.sampling_settings import SamplingSettings

__all__ = [
    "DEFAULT_CONTEXT",
    "AdapterPlan",
    "InvalidSampleError",
    "OnGroup",
    "ReceivingSampler",
    "Recovery",
    "RecoverySettings",
    "RememberedLogprobs",
    "RestartableSampler",
    "Sampler",
    "SamplerBuilder",
    "SamplerName",
    "SamplerProcess",
    "SamplingCall",
    "SamplingSettings",
    "ServerSampler",
    "ServerSettings",
    "SyncError",
    "SyncProbe",
    "SyncReport",
    "TransformersSampler",
    "UsualGap",
    "VllmSampler",
    "VllmSettings",
    "check_context",
    "check_shapes",
    "check_sync",
    "context_switch",
    "engine_settings",
    "installed_vllm",
    "plan_adapters",
    "plan_probe",
    "policy_weights",
    "probe_sequences",
    "require_vllm",
    "runs_remote_code",
    "uses_vllm",
]
