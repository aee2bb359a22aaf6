"""Attention over packed tokens: every row attends to its own prompt and its own earlier tokens, nothing else.

The linear layers of a transformer see one long row of real tokens, [1, T], without a single padded one. Only
attention needs to know where rows begin. `AttentionLayout` says so; it travels through a Hugging Face model as the
keyword argument `packed_layout` and reaches `packed_attention`, which is registered under the name `PACKED`. Without
a layout the function is plain SDPA, so one model serves packed training, padded passes and sampling with a cache.

On CUDA the rows go to `torch.nn.attention.varlen` (flash attention, no padding at all); elsewhere to SDPA on small
blocks that are padded inside attention only.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "lambda_grpo_packed"
SHORT = 16
"""Segments up to this many tokens share a block: finer blocks cost more in calls than they save in padding."""
LONGEST_LOG = 64
"""More than the base-2 logarithm of any length."""


class Block(NamedTuple):
    """S segments whose queries are padded to Q and keys to K."""

    query_index: Tensor
    """[S, Q] int64 position of each query in the packed row (any valid one at padding)."""
    key_index: Tensor
    """[S, K] int64 position of each key in the packed row (any valid one at padding)."""
    mask: Tensor | None
    """[S, 1, Q, K] bool, True = may attend; None where the segment is its own prefix and plain causality says it
    all."""


class AttentionLayout(NamedTuple):
    """Who sees whom in a packed row of T tokens."""

    blocks: tuple[Block, ...]
    """Padded blocks for SDPA."""
    slot: Tensor
    """[T] int64 place of each packed token in the blocks' outputs, laid end to end."""
    key_index: Tensor | None
    """[ΣK] int64 keys of every segment end to end, for varlen attention; None where keys are the queries themselves."""
    cu_queries: Tensor
    """[S+1] int32 cumulated query lengths."""
    cu_keys: Tensor
    """[S+1] int32 cumulated key lengths."""
    max_query: int
    """Longest segment."""
    max_key: int
    """Most keys of any segment."""


def segment_layout(prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor) -> AttentionLayout:
    """Lay out S segments of a packed row; segment s sees its prefix and, causally, itself.

    Arguments are [S] int64 on one device: where the prefix of each segment begins and how long it is (0 for none),
    where the segment itself begins and how long it is. Segments lie in packed order and cover the row. Segments with
    and without a prefix become separate blocks.
    """
    device = start.device
    blocks: list[Block] = []
    slot = torch.empty(int(length.sum()), dtype=torch.int64, device=device)
    filled = 0
    kind = length.clamp(min=SHORT).log2().ceil() + LONGEST_LOG * (prefix_length > 0)
    for like in torch.unique(kind[length > 0]).tolist():
        rows = torch.nonzero((kind == like) & (length > 0)).flatten()
        block, valid = _block(prefix_start[rows], prefix_length[rows], start[rows], length[rows])
        blocks.append(block)
        places = torch.arange(valid.numel(), device=device).view_as(valid) + filled
        slot[block.query_index[valid]] = places[valid]
        filled += valid.numel()
    keys = length + prefix_length
    return AttentionLayout(
        blocks=tuple(blocks),
        slot=slot,
        key_index=_key_index(prefix_start, prefix_length, start, length) if bool((prefix_length > 0).any()) else None,
        cu_queries=F.pad(length.cumsum(0), (1, 0)).int(),
        cu_keys=F.pad(keys.cumsum(0), (1, 0)).int(),
        max_query=int(length.max()),
        max_key=int(keys.max()),
    )


def _block(prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor) -> tuple[Block, Tensor]:
    """One padded block and [S, Q] bool, True where a query is real."""
    device = start.device
    num_prefix = int(prefix_length.max())
    query = torch.arange(int(length.max()), device=device)
    valid = query < length[:, None]
    query_index = start[:, None] + query.clamp(max=length[:, None] - 1)
    if num_prefix == 0:
        return Block(query_index, query_index, None), valid
    prefix = torch.arange(num_prefix, device=device)
    prefix_index = prefix_start[:, None] + prefix.clamp(max=prefix_length[:, None] - 1)
    sees_prefix = (prefix < prefix_length[:, None])[:, None, :].expand(-1, query.numel(), -1)
    sees_self = (query[None, :] <= query[:, None]).expand(length.numel(), -1, -1)
    mask = torch.cat([sees_prefix, sees_self], dim=2)[:, None]
    return Block(query_index, torch.cat([prefix_index, query_index], dim=1), mask), valid


def _key_index(prefix_start: Tensor, prefix_length: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """[ΣK] positions of prefix and own tokens, segment after segment."""
    starts = torch.stack([prefix_start, start], dim=1).flatten()
    lengths = torch.stack([prefix_length, length], dim=1).flatten()
    offsets = starts - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum()), device=start.device) + offsets.repeat_interleave(lengths)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: AttentionLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend by `packed_layout`, or by SDPA where there is none (the signature is transformers' AttentionInterface).

    Shapes: query [1, H, T, D], key and value [1, H_kv, T, D]; the output is [1, T, H, D].
    """
    if packed_layout is None and query.shape[2] == 1 and attention_mask is not None:
        return _attend_last(query, key, value, attention_mask, dropout, scaling), None
    if packed_layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    device = query.device.type
    # Under autocast the rotary embedding leaves queries and keys in float32, which no flash kernel takes.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    q, k, v = (tensor.squeeze(0).transpose(0, 1).to(dtype) for tensor in (query, key, value))  # [T, H, D]
    half = dtype in (torch.float16, torch.bfloat16)
    attend = _attend_varlen if query.is_cuda and half and dropout == 0.0 else _attend_blocks
    return attend(q, k, v, packed_layout, dropout, scaling)[None], None


def _attend_last(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """One new token per row (decoding): query heads that share a key head become queries of it, and no key is copied.

    Shapes: query [n, H, 1, D], key and value [n, H_kv, K, D], mask [n, 1, 1, ≥ K]; the output is [n, 1, H, D].
    """
    num_rows, num_heads, _, width = query.shape
    grouped = query.reshape(num_rows, key.shape[1], -1, width)
    mask = mask[..., : key.shape[2]]
    attended = F.scaled_dot_product_attention(grouped, key, value, mask, dropout, scale=scaling)
    return attended.reshape(num_rows, 1, num_heads, width)


def _attend_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, dropout: float, scaling: float | None
) -> Tensor:
    outputs = []
    for block in layout.blocks:
        q, k, v = (
            tensor[index].transpose(1, 2)
            for tensor, index in ((query, block.query_index), (key, block.key_index), (value, block.key_index))
        )
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            block.mask,
            dropout,
            is_causal=block.mask is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[layout.slot]


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, dropout: float, scaling: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # imports CUDA kernels: only where they run

    if layout.key_index is not None:
        key, value = key[layout.key_index], value[layout.key_index]
    output = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        layout.cu_queries,
        layout.cu_keys,
        layout.max_query,
        layout.max_key,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast(Tensor, output)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
