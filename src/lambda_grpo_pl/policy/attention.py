"""Attention over packed tokens: every row attends to its own prompt and its own earlier tokens, nothing else.

The linear layers of a transformer see one long row of real tokens, [1, T], without a single padded one. Only
attention needs to know where rows begin. An `AttentionLayout` says so; it travels through a Hugging Face model as the
keyword argument `packed_layout` and reaches `packed_attention`, which is registered under the name `PACKED`. Without
a layout the function attends by transformers' mask, so one model serves packed training, padded passes and sampling
with a cache.

On CUDA the rows go to `torch.nn.attention.varlen` (flash attention, no padding at all); elsewhere to SDPA on small
blocks that are padded inside attention only. Sliding windows, capped scores (Gemma 2) and sinks (gpt-oss) are computed
in every one of these paths.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lambda_grpo_pl.policy.segments import AttentionLayout

PACKED = "lambda_grpo_packed"
HALF = (torch.float16, torch.bfloat16)


class Scores(NamedTuple):
    """How attention scores are made from queries and keys."""

    scaling: float | None
    """Factor of the dot products; None: 1/√D."""
    dropout: float
    """Probability of dropping an attention weight."""
    window: int | None = None
    """A token sees the last `window` tokens, itself included; None: all."""
    soft_cap: float | None = None
    """Scores s become c·tanh(s/c) (Gemma 2, arXiv:2408.00118, section 2)."""
    sinks: Tensor | None = None
    """[H] a learned score per head that takes part in the softmax and attends to nothing (gpt-oss)."""

    @property
    def plain(self) -> bool:
        """Whether SDPA and flash attention compute them."""
        return self.soft_cap is None and self.sinks is None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: AttentionLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend by `packed_layout`, or by `attention_mask` without one (the signature is transformers' interface).

    Shapes: query [1, H, T, D], key and value [1, H_kv, T, D]; the output is [1, T, H, D].
    """
    scores = Scores(scaling, dropout, sliding_window, softcap, s_aux)
    if packed_layout is not None:
        return _attend_packed(query, key, value, packed_layout, scores), None
    if not scores.plain:
        return _attend_eagerly(query, key, value, attention_mask, scores).transpose(1, 2), None
    if query.shape[2] == 1 and attention_mask is not None:
        return _attend_last(query, key, value, attention_mask, scores), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output


def _attend_packed(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scores: Scores) -> Tensor:
    device = query.device.type
    # Under autocast the rotary embedding leaves queries and keys in float32, which no flash kernel takes.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    q, k, v = (tensor.squeeze(0).transpose(0, 1).to(dtype) for tensor in (query, key, value))  # [T, H, D]
    flash = query.is_cuda and dtype in HALF and scores.dropout == 0.0 and scores.plain
    attend = _attend_varlen if flash else _attend_blocks
    return attend(q, k, v, layout, scores)[None]


def _attend_last(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    """One new token per row (decoding): query heads that share a key head become queries of it, and no key is copied.

    Shapes: query [n, H, 1, D], key and value [n, H_kv, K, D], mask [n, 1, 1, ≥ K]; the output is [n, 1, H, D].
    """
    num_rows, num_heads, _, width = query.shape
    grouped = query.reshape(num_rows, key.shape[1], -1, width)
    mask = mask[..., : key.shape[2]]
    attended = F.scaled_dot_product_attention(grouped, key, value, mask, scores.dropout, scale=scores.scaling)
    return attended.reshape(num_rows, 1, num_heads, -1)


def _attend_eagerly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scores: Scores) -> Tensor:
    """Capped scores and sinks, which no fused kernel computes: all scores exist at the same time.

    Shapes: query [n, H, Q, D], key and value [n, H_kv, K, D], mask [n, 1, Q, ≥ K] bool or None for causal attention in
    which the last query sees every key; the output is [n, H, Q, D].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    num_queries, num_keys = query.shape[2], key.shape[2]
    scaling = query.shape[3] ** -0.5 if scores.scaling is None else scores.scaling
    logits = (query @ key.transpose(2, 3)) * scaling
    if scores.soft_cap is not None:
        logits = scores.soft_cap * torch.tanh(logits / scores.soft_cap)
    if mask is None:
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril(num_keys - num_queries)
    logits = logits.masked_fill(~mask[..., :num_keys], torch.finfo(logits.dtype).min)
    if scores.sinks is not None:
        sinks = scores.sinks.to(logits.dtype)[:, None, None].expand(len(logits), -1, num_queries, 1)
        logits = torch.cat([logits, sinks], dim=3)
    weights = logits.softmax(3, dtype=torch.float32)[..., :num_keys].to(value.dtype)
    return F.dropout(weights, scores.dropout) @ value


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of blocks changes with every micro-batch: each would be another graph
def _attend_blocks(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scores: Scores) -> Tensor:
    outputs = []
    blocks, slot = layout.blocks(scores.window)
    for block in blocks:
        q, k, v = (
            tensor[index].transpose(1, 2)
            for tensor, index in ((query, block.query_index), (key, block.key_index), (value, block.key_index))
        )
        if scores.plain:
            attended = F.scaled_dot_product_attention(
                q,
                k,
                v,
                block.mask,
                scores.dropout,
                is_causal=block.mask is None,
                scale=scores.scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        else:
            attended = _attend_eagerly(q, k, v, block.mask, scores)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[slot]


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scores: Scores) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # imports CUDA kernels: only where they run

    if layout.key_index is not None:
        key, value = key[layout.key_index], value[layout.key_index]
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]}
    if not _takes_grouped_heads(varlen_attn):
        groups = query.shape[1] // key.shape[1]
        key, value, grouped = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1), {}
    output = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        layout.cu_queries,
        layout.cu_keys,
        layout.max_query,
        layout.max_key,
        scale=scores.scaling,
        window_size=(-1 if scores.window is None else scores.window - 1, 0),  # keys to the left, itself not counted
        **grouped,
    )
    return cast(Tensor, output)


@cache
def _takes_grouped_heads(function: Any) -> bool:
    """Whether the installed varlen_attn has `enable_gqa` (torch 2.12 and later)."""
    return "enable_gqa" in inspect.signature(function).parameters


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
