"""Sampling with vLLM inside the training process, on GPUs and CPUs.

The engine is built from the policy's configuration alone, with no weights and no tokenizer: the first `sync` fills it.
Token ids go in and come out; nothing is detokenised.

Determinism: vLLM draws from torch's global generator, which is seeded per call and put back afterwards (seeds per
request would cost a loop over requests at each token). The prefix cache is emptied first: whether a prompt is cached
already changes the computation's shapes, thus its rounding, and a resumed run starts with an empty cache.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling.protocol import SamplingSettings, SyncReport
from lambda_grpo_pl.sampling.rng import preserved_torch_rng
from lambda_grpo_pl.sampling.vllm_support import import_vllm, process_unchanged
from lambda_grpo_pl.sampling.weights import policy_weights, weight_names


@dataclass(kw_only=True)
class VllmSettings:
    """How the engine is built."""

    dtype: str = "float32"
    """Type the engine computes in: the policy's, or `bfloat16` for speed at a larger engine-trainer mismatch."""
    max_model_len: int = 4096
    """Longest prompt plus response in tokens; cut to what the model allows."""
    max_num_seqs: int = 256
    """Responses decoded at a time."""
    enforce_eager: bool = True
    """Skip graph capture and compilation: starts in seconds. On GPUs, False decodes faster."""
    kv_cache_gib: float | None = None
    """Memory of the key-value cache; by default 1 GiB on CPUs and what `gpu_memory_utilization` leaves on GPUs."""
    gpu_memory_utilization: float = 0.3
    """Share of a GPU's memory that the engine takes, weights included; the rest is for training."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}: set it to float32, bfloat16 or float16.")
        if not 0 < self.gpu_memory_utilization < 1:
            raise ValueError(f"gpu_memory_utilization is {self.gpu_memory_utilization}: set it between 0 and 1.")


class VllmSampler:
    """Samples with an engine of its own, which holds a copy of the weights as of the last `sync`.

    Example:
        >>> sampler = VllmSampler(model.config, eos_token_ids=[1], pad_token_id=0, settings=VllmSettings())
        >>> sampler.sync(model)
        >>> completions = sampler.generate(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
    """

    def __init__(self, config: Any, eos_token_ids: Sequence[int], pad_token_id: int, settings: VllmSettings) -> None:
        """Build the engine for the transformers configuration `config`; its weights are random until the first `sync`.

        Raises:
            ValueError: If vLLM is absent or out of range, or cannot run this model on this device.
        """
        _require_supported_heads(config)
        self.eos_token_ids = list(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.max_model_len = min(settings.max_model_len, config.max_position_embeddings)
        self.last_sync: SyncReport | None = None
        self._shares_process_group = torch.distributed.is_initialized()
        with process_unchanged(), tempfile.TemporaryDirectory() as folder:
            vllm = import_vllm()
            self._sampling_params = vllm.SamplingParams
            config.save_pretrained(folder)
            self._engine = vllm.LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=settings.dtype,
                max_model_len=self.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                enforce_eager=settings.enforce_eager,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                kv_cache_memory_bytes=_kv_cache_bytes(settings),
                gpu_memory_utilization=settings.gpu_memory_utilization,
                distributed_executor_backend=_executor_backend(),
                seed=0,
            )
        if self._shares_process_group:
            _keep_process_group(self._engine)
        self._engine_names: list[str] = self._engine.apply_model(_hugging_face_names)[0]
        self._source: nn.Module | None = None

    def sync(self, policy: nn.Module) -> SyncReport:
        """Copy the weights; from a policy's second sync on, only those of modules in which something trains."""
        start = time.perf_counter()
        changed_only = policy is self._source
        due = set(weight_names(policy, changed_only=True)) if changed_only else set(self._engine_names)
        sent: dict[str, int] = {}

        def outgoing() -> Iterator[tuple[str, Tensor]]:
            for name, weight in policy_weights(policy, changed_only):
                sent[name] = weight.numel() * weight.element_size()
                yield name, weight

        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": outgoing()})
        self._engine.reset_prefix_cache()
        self._source = policy
        missing = tuple(name for name in self._engine_names if name in due - sent.keys())
        self.last_sync = SyncReport(time.perf_counter() - start, sum(sent.values()), tuple(sent), missing)
        return self.last_sync

    def generate(self, prompts: Prompts, settings: SamplingSettings, seed: int) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            ValueError: Before the first `sync`, or if a prompt and its response may exceed `max_model_len`.
        """
        self._require_sync()
        longest = int(prompts.lengths.max()) + settings.max_tokens
        if longest > self.max_model_len:
            raise ValueError(
                f"The longest prompt plus max_tokens is {longest} tokens and the engine holds {self.max_model_len}: "
                "raise max_model_len (up to the model's own limit), or lower max_tokens."
            )
        draws = 1 if settings.greedy else settings.num_samples
        params = self._sampling_params(
            n=draws,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens,
            stop_token_ids=self.eos_token_ids,
            ignore_eos=True,  # the engine has no tokenizer to learn it from: stop_token_ids names what ends a response
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        requests = [{"prompt_token_ids": prompts.tokens(row)} for row in range(len(prompts.lengths))]
        self._engine.reset_prefix_cache()
        with preserved_torch_rng(seed):
            results = self._engine.generate(requests, params, use_tqdm=False)
        outputs = [output for result in results for output in sorted(result.outputs, key=lambda output: output.index)]
        completions = self._completions(outputs)
        if draws < settings.num_samples:
            completions = Completions(*(field.repeat_interleave(settings.num_samples, 0) for field in completions))
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes. They must be one token shorter than `max_model_len`."""
        self._require_sync()
        params = self._sampling_params(max_tokens=1, prompt_logprobs=0, detokenize=False)
        requests = [{"prompt_token_ids": list(sequence)} for sequence in token_ids]
        with preserved_torch_rng(seed=0):
            results = self._engine.generate(requests, params, use_tqdm=False)
        return [
            [entry[token].logprob for token, entry in zip(sequence[1:], result.prompt_logprobs[1:], strict=True)]
            for sequence, result in zip(token_ids, results, strict=True)
        ]

    def close(self) -> None:
        """Drop the engine and free its memory."""
        if self._shares_process_group:
            self._engine.llm_engine.model_executor.shutdown()
        else:
            self._engine.llm_engine.engine_core.shutdown()
        del self._engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _require_sync(self) -> None:
        if self.last_sync is None:
            raise ValueError("The engine's weights are random: call sync(policy) before the first generate or probe.")

    def _completions(self, outputs: list[Any]) -> Completions:
        """Pad vLLM's completions into tensors."""
        ids = [torch.tensor(output.token_ids) for output in outputs]
        logprobs = [torch.tensor(output.logprobs.logprobs, dtype=torch.float32) for output in outputs]
        return Completions(
            ids=pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            lengths=torch.tensor([len(row) for row in ids]),
            truncated=torch.tensor([output.finish_reason == "length" for output in outputs]),
            logprobs=pad_sequence(logprobs, batch_first=True),
        )


def _kv_cache_bytes(settings: VllmSettings) -> int | None:
    if settings.kv_cache_gib is not None:
        return int(settings.kv_cache_gib * 2**30)
    return None if torch.cuda.is_available() else 2**30


def _keep_process_group(engine: Any) -> None:
    """Cancel vLLM's teardown on collection and at exit: it would destroy the process group, which is the trainer's."""
    finalizer = getattr(engine.llm_engine.engine_core, "_finalizer", None)  # older versions in range have none
    if finalizer is not None:
        finalizer.detach()


def _executor_backend() -> str | None:
    """One engine per rank, on the rank's own device, inside the process group that training has built."""
    if not torch.distributed.is_initialized():
        return None
    os.environ["RANK"] = str(torch.distributed.get_rank())  # vLLM reads both; Lightning's launcher sets only LOCAL_RANK
    os.environ.setdefault("LOCAL_RANK", "0")
    return "external_launcher"


def _require_supported_heads(config: Any) -> None:
    """Refuse what vLLM's CPU attention would only fail on at the first token."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim % 32 and not torch.cuda.is_available():
        raise ValueError(
            f"The model's heads have {head_dim} dimensions and vLLM's CPU attention wants a multiple of 32: "
            "change the model, or sample with transformers instead."
        )


def _hugging_face_names(model: nn.Module) -> list[str]:
    """Name the engine's tensors as checkpoints do: `qkv_proj` stands for `q_proj`, `k_proj` and `v_proj`."""
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    names = []
    for name, _ in model.named_parameters(remove_duplicate=False):
        parts = name.split(".")
        fused = next((part for part in parts if part in packed), None)
        names += [name] if fused is None else [name.replace(fused, part) for part in packed[fused]]
    return names
