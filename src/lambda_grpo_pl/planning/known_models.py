"""Shapes of the models that `configs/` names, for machines that cannot reach the hub.

Read from the `config.json` of each model on the Hugging Face hub.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

QWEN = "Qwen/Qwen2.5-"
_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
_SHAPES: dict[str, tuple[type[PretrainedConfig], tuple[Any, ...]]] = {
    f"{QWEN}0.5B": (Qwen2Config, (896, 4864, 24, 14, 2, 151_936, 32_768, True)),
    f"{QWEN}1.5B": (Qwen2Config, (1536, 8960, 28, 12, 2, 151_936, 131_072, True)),
    f"{QWEN}3B": (Qwen2Config, (2048, 11_008, 36, 16, 2, 151_936, 32_768, True)),
    f"{QWEN}7B": (Qwen2Config, (3584, 18_944, 28, 28, 4, 152_064, 131_072, False)),
    f"{QWEN}14B": (Qwen2Config, (5120, 13_824, 48, 40, 8, 152_064, 131_072, False)),
    f"{QWEN}32B": (Qwen2Config, (5120, 27_648, 64, 40, 8, 152_064, 131_072, False)),
    f"{QWEN}Math-1.5B": (Qwen2Config, (1536, 8960, 28, 12, 2, 151_936, 4096, True)),
    f"{QWEN}Math-7B": (Qwen2Config, (3584, 18_944, 28, 28, 4, 152_064, 4096, False)),
    "unsloth/Llama-3.2-1B-Instruct": (LlamaConfig, (2048, 8192, 16, 32, 8, 128_256, 131_072, True)),
    "deepseek-ai/deepseek-math-7b-instruct": (LlamaConfig, (4096, 11_008, 30, 32, 32, 102_400, 4096, False)),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (LlamaConfig, (576, 1536, 30, 9, 3, 49_152, 8192, True)),
    "builtin:smollm2-135m-words": (LlamaConfig, (576, 1536, 30, 9, 3, 49_152, 8192, True)),
    "builtin:smollm2-135m": (LlamaConfig, (576, 1536, 30, 9, 3, 49_152, 8192, True)),
}
"""Hub id → architecture and the values of `_FIELDS`."""


def known_config(path: str) -> PretrainedConfig | None:
    """Return the configuration of a model of the table, or None."""
    found = _SHAPES.get(path)
    if found is None:
        return None
    kind, values = found
    return kind(**dict(zip(_FIELDS, values, strict=True)))
