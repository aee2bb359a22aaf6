"""Whether prompts and responses fit the sampler, asked before anything is loaded."""

from __future__ import annotations

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.vllm.settings import VllmSettings


def check_context(
    max_prompt_tokens: int,
    max_tokens: int,
    engine: VllmSettings | None,
    model_max_positions: int | None,
    prompt_key: str = "data.rules.max_prompt_tokens",
    response_key: str = "rollout.sampling.max_tokens",
) -> int:
    """Return the longest prompt plus response in tokens, which the engine is built for.

    Args:
        max_prompt_tokens: Longest prompt that the data lets through.
        max_tokens: Longest response.
        engine: The engine's settings; None for a sampler that sets no limit (`transformers`).
        model_max_positions: `max_position_embeddings` of the model, or None if it is not known yet.
        prompt_key: The configuration key that sets `max_prompt_tokens`, for the message.
        response_key: The configuration key that sets `max_tokens`, for the message.

    Raises:
        UserError: If they exceed what the engine or the model holds.
    """
    needed = max_prompt_tokens + max_tokens
    request = f"{prompt_key} ({max_prompt_tokens}) plus {response_key} ({max_tokens}) is {needed} tokens"
    if model_max_positions is not None and needed > model_max_positions:
        raise UserError(
            f"{request}, but the model has {model_max_positions} positions: lower one of them, or use a model with a "
            "longer context."
        )
    if engine is not None and engine.max_model_len is not None and needed > engine.max_model_len:
        raise UserError(
            f"{request}, but rollout.engine.max_model_len is {engine.max_model_len}: raise it to {needed} or set it to "
            "null."
        )
    return needed
