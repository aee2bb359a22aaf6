"""Memory of the sampler: vLLM's weights and key-value cache, or the cache of the transformers sampler."""

from __future__ import annotations

from collections.abc import Iterator

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.gpus import GIB, Gpu
from lambda_grpo_pl.planning.parts import Part
from lambda_grpo_pl.planning.run import PlannedRun, SamplingRequest
from lambda_grpo_pl.planning.sizes import ModelSize

ENGINE_WORKSPACE = 1.0 * GIB
"""What vLLM needs beside weights and cache: activations of its largest batch, CUDA graphs."""
MAX_ROWS = 1024
"""Rows that the transformers sampler decodes at a time (`TransformersSampler.max_rows`)."""
DISTRIBUTIONS = 4
"""[n, V] float32 tensors that exist when the transformers sampler draws a token."""


def engine_parts(run: PlannedRun, size: ModelSize, gpu: Gpu | None) -> Iterator[Part]:
    """Yield what sampling holds; with `rollout.engine.sleep` it is gone while the policy trains."""
    if run.engine is None:
        yield from _transformers_parts(run, size)
        return
    weights = engine_weights(run, size)
    cache = engine_cache(run, size, gpu)
    awake = 0.0 if run.engine.sleep else 1.0
    note = "in host memory while training (sleep)" if run.engine.sleep else "held while training too"
    yield Part("engine weights", weights, awake * weights, awake * weights, note)
    yield Part("engine's key-value cache", cache, awake * cache, awake * cache, describe_cache(run, cache))


def engine_weights(run: PlannedRun, size: ModelSize) -> float:
    """Bytes of the engine's own copy of the weights; every rank has a whole one."""
    return float(size.total * _engine_width(run))


def engine_cache(run: PlannedRun, size: ModelSize, gpu: Gpu | None) -> float:
    """Bytes of vLLM's key-value cache and workspace.

    Raises `UserError` if the engine's share of the GPU does not hold one response.
    """
    engine = run.engine
    assert engine is not None
    if engine.kv_cache_gib is not None or run.device == "cpu":
        cache = (engine.kv_cache_gib or 1.0) * GIB
    elif gpu is None:
        return 0.0
    else:
        share = engine.gpu_memory_utilization * gpu.memory
        cache = share - engine_weights(run, size) - ENGINE_WORKSPACE
    needed = cache_bytes_per_token(run) * max(request.longest_row for request in (run.training, *run.evaluations))
    if cache < needed:
        raise UserError(
            f"vLLM could not start: its key-value cache would have {max(cache, 0) / GIB:.1f} GiB, but one row of "
            f"{max(request.longest_row for request in (run.training, *run.evaluations))} tokens takes "
            f"{needed / GIB:.1f}, beside {engine_weights(run, size) / GIB:.1f} GiB of weights: raise "
            "rollout.engine.gpu_memory_utilization, set rollout.engine.dtype to bfloat16, or use a smaller model."
        )
    return cache + (ENGINE_WORKSPACE if run.device == "gpu" else 0.0)


def cache_bytes_per_token(run: PlannedRun) -> float:
    """Bytes of keys and values of one token in all layers."""
    text = run.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return float(2 * text.num_hidden_layers * heads * width * _engine_width(run))


def describe_cache(run: PlannedRun, cache: float) -> str:
    """Say how many of the longest responses fit at a time."""
    rows = int(cache / cache_bytes_per_token(run) / run.training.longest_row)
    return f"{rows} responses of full length at a time"


def _engine_width(run: PlannedRun) -> int:
    """Bytes of a number in the engine, on the device that is planned for."""
    if run.engine is None:
        return 4
    automatic = "bfloat16" if run.device == "gpu" else "float32"
    return 4 if (automatic if run.engine.dtype == "auto" else run.engine.dtype) == "float32" else 2


def _transformers_parts(run: PlannedRun, size: ModelSize) -> Iterator[Part]:
    """The policy's own weights sample, or a whole copy of them where they are sharded."""
    if run.placement.strategy == "fsdp2":
        copy = 4.0 * size.total
        yield Part("sampler's copy of the weights", copy, copy, copy, "gathered from the shards")
    request = max((run.training, *run.evaluations), key=lambda request: _decoding_bytes(run, request))
    cache = _decoding_bytes(run, request)
    yield Part("sampler's key-value cache", cache, 0, 0, f"{request.name}: {_rows(request)} rows at a time")


def _decoding_bytes(run: PlannedRun, request: SamplingRequest) -> float:
    text = run.config.get_text_config()
    per_row = cache_bytes_per_token(run) * request.longest_row * (1 + 1 / text.num_hidden_layers)
    return float(_rows(request) * (per_row + DISTRIBUTIONS * 4 * text.vocab_size))


def _rows(request: SamplingRequest) -> int:
    return min(request.num_rows, MAX_ROWS)
