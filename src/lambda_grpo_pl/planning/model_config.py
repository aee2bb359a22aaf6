"""The configuration of a model, and no weights: from a folder, the hub, or the table of known shapes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig, PretrainedConfig

from lambda_grpo_pl.builtin.models import builtin_config
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.known_models import known_config
from lambda_grpo_pl.policy import PolicyConfig


class FoundConfig(NamedTuple):
    """A configuration and where it is from."""

    config: PretrainedConfig
    source: str
    """In words."""


def read_model_config(settings: PolicyConfig) -> FoundConfig:
    """Return the configuration of `model.policy.path`; built-in models are not made for it.

    Raises `UserError` if it is neither found nor known.
    """
    path = settings.path
    builtin = builtin_config(path)
    if builtin is not None:
        return FoundConfig(builtin, "built in")
    known = known_config(path)
    try:
        config = AutoConfig.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        return FoundConfig(config, "its folder" if Path(path).is_dir() else "the Hugging Face hub")
    except (OSError, ValueError) as error:
        if known is None:
            raise UserError(
                f"model.policy.path is {path}, whose config.json cannot be read ({str(error).splitlines()[0]}): fix "
                "the path, or download the model's config.json into a folder and plan with that folder."
            ) from error
        return FoundConfig(known, "the built-in table of shapes, since the hub cannot be reached")


def model_positions(settings: PolicyConfig) -> int | None:
    """Return how many tokens the model can read, without asking the hub; None if that is not known."""
    path = Path(settings.path)
    if path.is_dir():
        config: PretrainedConfig | None = read_model_config(settings).config
    else:
        config = builtin_config(settings.path) or known_config(settings.path)
    positions = None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None
