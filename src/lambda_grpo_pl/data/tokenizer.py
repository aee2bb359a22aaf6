"""The policy's tokenizer, with what training needs of one."""

from __future__ import annotations

import logging

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.builtin.tasks import PREFIX
from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)


def read_positions(path: str, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """Return how many tokens the model of a tokenizer reads; None where its configuration is not there or does not say.

    Built-in models are not made for it.
    """
    if path.startswith(PREFIX):
        return None
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None


def load_tokenizer(path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, a hub id or a built-in model; a missing pad token becomes end-of-sequence.

    Padding never reaches the loss (rows carry their lengths), so any token can stand for it. Raises `UserError` for a
    tokenizer that cannot be loaded or has no end-of-sequence token.
    """
    folder = resolve_model_path(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:  # no such model, no network and nothing cached, or a folder without files
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"model.policy.path is {path}, whose tokenizer could not be loaded: {first} Check model.policy.path and "
            "model.policy.revision: it must be a folder with tokenizer.json, or a model of the Hugging Face hub that "
            "is cached or reachable."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.policy.path is {path}, whose tokenizer has no end-of-sequence token, so no response could end: set "
            "eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        log.warning("The tokenizer of %s has no pad token: using %r for padding.", path, tokenizer.pad_token)
    return tokenizer
