"""Whether the prompts that were read, with their responses, fit the engine and the model; asked before it is loaded."""

from __future__ import annotations

from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.tokenizer import read_positions
from lambda_grpo_pl.sampling import VllmSettings, check_context


def check_lengths(
    data: PromptDataModule, name: str, max_tokens: int, engine: VllmSettings | None, response_key: str
) -> int:
    """Return the longest prompt plus response that may be requested, for which the engine is built.

    Args:
        data: After its `setup`.
        name: A validation set, or `data.module.TRAINING`.
        max_tokens: Longest response.
        engine: vLLM's settings; None for the transformers sampler.
        response_key: The configuration key that sets `max_tokens`, for the message.

    Raises:
        UserError: If the longest prompt of the set with a full-length response exceeds the engine or the model.
    """
    longest = data.longest_prompts.get(name)
    if longest is not None:
        positions = read_positions(data.tokenizer_path, data.revision, data.trust_remote_code)
        check_context(longest, max_tokens, engine, positions, f"The longest prompt of {name}", response_key)
    return data.rules.max_prompt_tokens + max_tokens
