"""A small copy of a model for the check at loading: every kind of layer, short windows, random weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

WINDOW = 7
"""Tokens of every sliding window of the copy."""
SWITCH = 16
"""Positions after which rotary frequencies of the copy change, if they depend on the length."""
VOCABULARY = 61
MOST_PARAMETERS = 300_000_000
"""Of a copy; a second of time and 1.2 GB."""
GAIN = 6.0
"""Factor of the initial weights, so that attention and logits are as uneven as in a trained model."""

_WINDOWS = ("sliding_window", "attention_window_size", "local_attention", "window_size", "attention_chunk_size")
_AT_MOST = {
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 96,
    "ffn_dim": 96,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size_per_layer_input": VOCABULARY,
}
_DROPOUT = re.compile(r"drop(out)?(_p|_prob)?$|pdrop$|jitter_noise$|^layerdrop$")
_NOT_IN_THE_MODEL = ("classifier_dropout", "summary_first_dropout")
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary types whose frequencies depend on the longest position of a batch."""


def turn_off_dropout(config: PretrainedConfig) -> list[str]:
    """Set every dropout probability (and router noise) of `config` to 0, in place; return the names of those above."""
    text = config.get_text_config()
    names = [
        name
        for name, value in sorted(vars(text).items())
        if _DROPOUT.search(name) and name not in _NOT_IN_THE_MODEL and isinstance(value, float) and value > 0
    ]
    for name in names:
        setattr(text, name, 0.0)
    return names


def rotary_switch(config: PretrainedConfig) -> int | None:
    """Longest row for which the rotary frequencies do not depend on the other rows of a batch; None: any."""
    text = config.get_text_config()
    switches = [
        rope.get("original_max_position_embeddings") or text.max_position_embeddings
        for rope in _rotary_parameters(text)
        if rope.get("rope_type") in LENGTH_DEPENDENT
    ]
    return min(switches) if switches else None


def _rotary_parameters(text: PretrainedConfig) -> list[dict[str, Any]]:
    """Rotary parameters, of each kind of layer where they differ by kind."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def shrink(config: PretrainedConfig, narrow: bool, switch: int | None) -> PretrainedConfig:
    """Return a copy of `config` with few layers (one of each kind, at least two), short windows and few tokens.

    Args:
        config: Of the model to check.
        narrow: Reduce heads, widths and experts too; heads keep their size. Some architectures tie their widths
            together in ways that this breaks.
        switch: The length at which length-dependent rotary frequencies change; None leaves it where it is.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    _keep_layers(text)
    for name in _WINDOWS:
        if getattr(text, name, None):
            setattr(text, name, WINDOW)
    if switch is not None:
        for rope in _rotary_parameters(text):
            if rope.get("rope_type") in LENGTH_DEPENDENT:
                rope["original_max_position_embeddings"] = switch
                text.original_max_position_embeddings = switch
                if rope["rope_type"] == "dynamic":
                    text.max_position_embeddings = switch
    if narrow:
        _narrow(text)
    text.vocab_size = VOCABULARY  # smaller vocabularies grow: the rows of the check need these tokens
    for name in [name for name in vars(text) if name.endswith("_token_id")]:
        value = getattr(text, name)
        if isinstance(value, int) and value >= text.vocab_size:
            setattr(text, name, 0)
    return small


def _keep_layers(text: PretrainedConfig) -> None:
    """Keep the first layer of each kind, where kinds are what lists with an entry per layer say."""
    total = text.num_hidden_layers
    lists = {
        name: value
        for name, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == total and not name.endswith("_ids")
    }
    kinds = [tuple(str(value[layer]) for value in lists.values()) for layer in range(total)]
    kept = sorted({kinds.index(kind) for kind in kinds})[:4]
    kept = sorted({*kept, *range(min(total, 2))}) if len(kept) < 2 else kept
    for name, value in lists.items():
        setattr(text, name, _select(value, kept))
    text.num_hidden_layers = len(kept)
    if getattr(text, "first_k_dense_replace", 0):
        text.first_k_dense_replace = 1


def _select(values: Sequence[Any], kept: list[int]) -> list[Any]:
    return [values[layer] for layer in kept]


def _narrow(text: PretrainedConfig) -> None:
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    groups = heads // (getattr(text, "num_key_value_heads", None) or heads)
    fewer = min(heads, 2 if groups in (1, heads) else 4)
    if hasattr(text, "num_key_value_heads"):
        text.num_key_value_heads = {1: fewer, heads: 1}.get(groups, max(1, fewer // 2))
    text.num_attention_heads = fewer
    text.hidden_size = min(text.hidden_size, fewer * size)
    if getattr(text, "mamba_n_heads", None) and getattr(text, "mamba_expand", None):
        text.mamba_n_heads = max(1, text.mamba_expand * text.hidden_size // text.mamba_d_head)
    routed, fewest = getattr(text, "n_routed_experts", None), 2 * (getattr(text, "n_group", None) or 2)
    for name, most in _AT_MOST.items():
        value = getattr(text, name, None)
        if isinstance(value, int):
            setattr(text, name, min(value, most))
        elif isinstance(value, list):
            setattr(text, name, [min(number, most) for number in value])
    if routed:  # routing by groups takes the two best experts of each (DeepSeek-V3, arXiv:2412.19437, section 2.1.2)
        text.n_routed_experts = min(routed, fewest)


def is_small(config: PretrainedConfig, trust_remote_code: bool) -> bool:
    """Whether a model of `config` has at most `MOST_PARAMETERS`; nothing is allocated to find out."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    return bool(sum(weight.numel() for weight in model.parameters()) <= MOST_PARAMETERS)


def build(config: PretrainedConfig, attention: str | None, trust_remote_code: bool) -> Any:
    """Build a float32 model on the CPU with uneven weights that depend on `config` alone; no generator is touched."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config),
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            attn_implementation=attention,
        )
        _make_uneven(model)
    return model


@torch.no_grad()
def _make_uneven(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "A_log" not in name:
            weight.mul_(GAIN if weight.std() < 0.08 else 1.5)
        elif weight.ndim == 1 and ("bias" in name or "sinks" in name):
            weight.add_(torch.randn(weight.shape) * 0.5)
