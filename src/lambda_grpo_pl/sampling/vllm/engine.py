"""The adapter to vLLM: all that touches its interface, so that a new version of it changes one file.

The engine lives inside the process that builds it, is built from a configuration alone, and reads and writes token
ids: it has no tokenizer and detokenises nothing.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lambda_grpo_pl.sampling.adapters import AdapterPlan, is_adapter
from lambda_grpo_pl.sampling.protocol import SamplingSettings
from lambda_grpo_pl.sampling.vllm import lora
from lambda_grpo_pl.sampling.vllm.compat import import_vllm, installed_vllm, process_unchanged


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
    lora_adapters: bool = False
    """Send LoRA adapters by themselves, and let the engine multiply by them at every token, instead of merging them
    into its weights. A sync is then much shorter and nothing is rounded into a bfloat16 weight; on CPUs sampling takes
    two to three times as long."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}: set it to float32, bfloat16 or float16.")
        if not 0 < self.gpu_memory_utilization < 1:
            raise ValueError(f"gpu_memory_utilization is {self.gpu_memory_utilization}: set it between 0 and 1.")


class VllmEngine:
    """vLLM with weights that come later, by `load`."""

    def __init__(
        self,
        config: Any,
        stop_token_ids: Sequence[int],
        settings: VllmSettings,
        adapters: AdapterPlan | None = None,
    ) -> None:
        """Build the engine for the transformers configuration `config`; its weights are random.

        With `adapters` it takes LoRA adapters beside weights.

        Raises:
            ValueError: If vLLM is absent or out of range, or cannot run this model on this device.
        """
        _require_supported_heads(config)
        self.stop_token_ids = list(stop_token_ids)
        self.max_model_len = min(settings.max_model_len, config.max_position_embeddings)
        self._shares_process_group = torch.distributed.is_initialized()
        self._adapter: Any = None
        with process_unchanged(), tempfile.TemporaryDirectory() as folder:
            self._vllm = import_vllm()
            config.save_pretrained(folder)
            self._llm = self._vllm.LLM(
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
                **lora.engine_arguments(adapters, installed_vllm()),
            )
        if self._shares_process_group:
            _keep_process_group(self._llm)
        self.weight_names: list[str] = self._llm.apply_model(_hugging_face_names)[0]

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over (Hugging Face name, whole tensor) pairs, adapters last; what the old weights cached is dropped."""
        adapter: dict[str, Tensor] = {}
        base = _without_adapters(weights, adapter)
        for first in base:  # reloading nothing would still drop the adapter
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": chain([first], base)})
        if adapter:
            lora.load_adapter(self._llm, adapter)
            self._adapter = lora.request()
        self.forget_prompts()

    def forget_prompts(self) -> None:
        """Empty the prefix cache."""
        self._llm.reset_prefix_cache()

    def sample(
        self, prompts: Sequence[list[int]], settings: SamplingSettings, on_group: Callable[[int, list[Any]], None]
    ) -> None:
        """Sample G responses to each prompt; `on_group` gets a prompt's number and its G outputs as soon as all ended.

        An output has `token_ids`, `logprobs.logprobs` and `finish_reason` ("length" where the limit cut it).
        """
        params = self._vllm.SamplingParams(
            n=settings.num_samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens,
            stop_token_ids=[*self.stop_token_ids, *settings.stop_token_ids],
            ignore_eos=True,  # the engine has no tokenizer to learn it from: stop_token_ids names what ends a response
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        for number, outputs in self._run(prompts, params):
            on_group(number, sorted(outputs.outputs, key=lambda output: output.index))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return log p(token t | tokens before t) at temperature 1 of each sequence, for t = 1, 2, …"""
        params = self._vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        results = dict(self._run([list(sequence) for sequence in sequences], params))
        return [
            [
                entry[token].logprob
                for token, entry in zip(sequence[1:], results[number].prompt_logprobs[1:], strict=True)
            ]
            for number, sequence in enumerate(sequences)
        ]

    def close(self) -> None:
        """Free the engine's memory."""
        if self._shares_process_group:
            self._llm.llm_engine.model_executor.shutdown()
        else:
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(self, prompts: Sequence[list[int]], params: Any) -> Iterator[tuple[int, Any]]:
        """Yield (prompt's number, vLLM's result) in the order in which requests end."""
        engine = self._llm.llm_engine
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        names = self._llm.enqueue(requests, params, use_tqdm=False, lora_request=self._adapter)
        first = int(names[0].partition("-")[0])  # requests are numbered on; vLLM appends a random part of its own
        try:
            while engine.has_unfinished_requests():
                for result in engine.step():
                    yield int(result.request_id) - first, result
        finally:
            if engine.has_unfinished_requests():  # whoever listens has raised: the next call must not find the rest
                engine.abort_request(names, internal=True)


def _without_adapters(
    weights: Iterable[tuple[str, Tensor]], adapter: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield weights, and put what is an adapter's aside into `adapter`."""
    for name, weight in weights:
        if is_adapter(name):
            adapter[name] = weight
        else:
            yield name, weight


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
    """One engine per rank, on the rank's own device, inside the process group that training has built.

    A group of one process is as good as none; it may be what an earlier engine has left.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
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
        name = name.replace(".base_layer.", ".")  # how vLLM calls a layer that takes adapters
        parts = name.split(".")
        fused = next((part for part in parts if part in packed), None)
        names += [name] if fused is None else [name.replace(fused, part) for part in packed[fused]]
    return names
