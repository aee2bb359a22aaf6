"""The adapter to vLLM: everything that touches its interface, so that a new version of vLLM changes one folder.

The engine lives inside the process that builds it, is built from a configuration alone, and reads and writes token
ids: it has no tokenizer and detokenizes nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.adapters import AdapterPlan, is_adapter
from lambda_grpo_pl.sampling.vllm import lora
from lambda_grpo_pl.sampling.vllm.checkpoint import (
    CheckpointFormat,
    checkpoint_names,
    missing_names,
    own_names,
)
from lambda_grpo_pl.sampling.vllm.compat import (
    import_vllm,
    installed_vllm,
    llvmlite_spared,
    preserved_torch_rng,
    process_unchanged,
)
from lambda_grpo_pl.sampling.vllm.launch import configuration_folder, executor_backend
from lambda_grpo_pl.sampling.vllm.reload import reload_weights
from lambda_grpo_pl.sampling.vllm.settings import VllmSettings
from lambda_grpo_pl.sampling_settings import SamplingSettings


class VllmEngine:
    """vLLM with weights that arrive later, by `load`."""

    def __init__(
        self,
        config: Any,
        stop_token_ids: Sequence[int],
        settings: VllmSettings,
        adapters: AdapterPlan | None = None,
        context_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Build the engine for the transformers configuration `config`; its weights are random.

        With `adapters` it takes LoRA adapters in addition to weights. `context_length` is the longest prompt plus
        response that `settings.max_model_len: null` must hold.

        Raises:
            UserError: If vLLM is absent or out of range, or cannot run this model on this device.
        """
        _require_supported_heads(config)
        settings.check_gpu(torch.cuda.is_available())
        self.stop_token_ids = list(stop_token_ids)
        self.max_model_len = settings.context_length(context_length, config.max_position_embeddings)
        self._sleeps, self._awake = settings.sleep, True
        self._shares_process_group = torch.distributed.is_initialized()
        self._adapter: Any = None
        self._format = CheckpointFormat(config)
        with process_unchanged():
            self._vllm = import_vllm(self._format.architecture)
            with llvmlite_spared():
                self._llm = self._vllm.LLM(
                    model=str(configuration_folder(config, self._format.architecture)),
                    trust_remote_code=trust_remote_code,
                    max_model_len=self.max_model_len,
                    **_engine_arguments(settings),
                    **lora.engine_arguments(adapters, installed_vllm()),
                )
        if self._shares_process_group:
            _keep_process_group(self._llm)
        self.weight_names: list[str] = self._llm.apply_model(checkpoint_names)[0]
        self._own_names = self._llm.apply_model(own_names)[0]
        runner = self._llm.llm_engine.vllm_config
        self.seeds_each_request = bool(getattr(runner, "use_v2_model_runner", False)) and torch.cuda.is_available()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over (name, unsharded tensor) pairs, adapters last, and drop what the old weights cached."""
        self._wake()
        adapter: dict[str, Tensor] = {}
        base = self._format.convert(_without_adapters(weights, adapter))
        for first in base:  # reloading an empty iterator would still drop the adapter
            reload_weights(self._llm, chain([first], base), self._format.model_type)
        if adapter:
            lora.load_adapter(self._llm, adapter)
            self._adapter = lora.request()
        self.clear_prefix_cache()

    def missing(self, sent: Iterable[str]) -> list[str]:
        """Return the names of the engine's tensors that are not among the policy's tensors `sent`."""
        names = self._format.names(sent)
        own = self._own_names.apply_list(list(names)) if self._own_names else []
        return missing_names(self.weight_names, names | set(own))

    def clear_prefix_cache(self) -> None:
        """Empty the prefix cache. Raises `RuntimeError` if vLLM keeps it: its keys belong to the old weights."""
        self._wake()
        if self._llm.reset_prefix_cache() is False:
            raise RuntimeError("vLLM did not reset its prefix cache, so it would sample from keys of old weights.")

    def sample(
        self,
        prompts: Sequence[list[int]],
        settings: SamplingSettings,
        seed: int,
        on_group: Callable[[int, list[Any]], None],
    ) -> None:
        """Sample G responses to each prompt; `on_group` gets a prompt's number and its G outputs when all have ended.

        An output has `token_ids`, `logprobs.logprobs` and `finish_reason` ("length" where the limit cut it).
        """
        self._wake()
        seeds = request_seeds(seed, len(prompts)) if self.seeds_each_request else [None] * len(prompts)
        params = [
            self._vllm.SamplingParams(
                n=settings.num_samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                max_tokens=settings.max_tokens,
                stop_token_ids=[*self.stop_token_ids, *settings.stop_token_ids],
                ignore_eos=True,  # without a tokenizer the engine knows no end: stop_token_ids names all of them
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                seed=request_seed,
            )
            for request_seed in seeds
        ]
        with preserved_torch_rng(seed):
            for number, outputs in self._run(prompts, params):
                on_group(number, sorted(outputs.outputs, key=lambda output: output.index))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return log p(token t | tokens before t) at temperature 1 of each sequence, for t = 1, 2, …"""
        self._wake()
        params = self._vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        with preserved_torch_rng(seed=0):
            results = dict(self._run([list(sequence) for sequence in sequences], [params] * len(sequences)))
        return [
            [
                entry[token].logprob
                for token, entry in zip(sequence[1:], results[number].prompt_logprobs[1:], strict=True)
            ]
            for number, sequence in enumerate(sequences)
        ]

    def sleep(self) -> None:
        """Free GPU memory until the next call, if `rollout.engine.sleep` is set."""
        if self._sleeps and self._awake:
            self._llm.sleep(level=1)
            self._awake = False

    def close(self) -> None:
        """Free the engine's memory; closing twice does no harm."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        engine = llm.llm_engine
        try:
            (engine.model_executor if self._shares_process_group else engine.engine_core).shutdown()
        finally:
            _keep_process_group(llm)  # a failed engine that is collected later must not tear down the next one's
            del llm, engine
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _wake(self) -> None:
        if not self._awake:
            self._llm.wake_up()
            self._awake = True

    def _run(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (prompt's number, vLLM's result) in the order in which requests end."""
        engine = self._llm.llm_engine
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        names = self._llm.enqueue(requests, params, use_tqdm=False, lora_request=self._adapter)
        first = int(names[0].partition("-")[0])  # requests are numbered consecutively; vLLM appends a random part
        try:
            while engine.has_unfinished_requests():
                for result in engine.step():
                    yield int(result.request_id) - first, result
        finally:
            if engine.has_unfinished_requests():  # a listener has raised: the next call must not find the rest
                engine.abort_request(names, internal=True)


def _engine_arguments(settings: VllmSettings) -> dict[str, Any]:
    """Return what every engine is built with: random weights, token ids in and out, and the user's settings."""
    return {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": str(settings.torch_dtype).removeprefix("torch."),
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": settings.eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "distributed_executor_backend": executor_backend(),
        "enable_sleep_mode": settings.sleep,
        "seed": 0,
    }


def request_seeds(seed: int, num_prompts: int) -> list[int]:
    """Return one seed below 2⁶² for each prompt; vLLM adds a response's index in its group."""
    words = np.random.SeedSequence(seed).generate_state(num_prompts, np.uint64)
    return [int(word) >> 2 for word in words]


def _without_adapters(
    weights: Iterable[tuple[str, Tensor]], adapter: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield weights, and put adapters into `adapter` instead."""
    for name, weight in weights:
        if is_adapter(name):
            adapter[name] = weight
        else:
            yield name, weight


def _keep_process_group(engine: Any) -> None:
    """Cancel vLLM's teardown on collection and at exit: it would destroy a process group that others use."""
    finalizer = getattr(engine.llm_engine.engine_core, "_finalizer", None)  # older versions in range have none
    if finalizer is not None:
        finalizer.detach()


def _require_supported_heads(config: Any) -> None:
    """Refuse early what vLLM's CPU attention would refuse at the first token."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim % 32 and not torch.cuda.is_available():
        raise UserError(
            f"The model's attention heads have {head_dim} dimensions, but vLLM's CPU attention requires a multiple of "
            "32: use another model, or set rollout.sampler to transformers."
        )
