"""The built-in base models: made on first use by a minute of warm-up, and kept in the user's cache folder.

`resolve_model_path("builtin:arithmetic-tiny")` makes the model once and returns its folder from then on; every other
name passes through, so it can be called wherever a model path is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from lambda_grpo_pl.builtin import smollm2
from lambda_grpo_pl.builtin.arithmetic import ArithmeticTraces
from lambda_grpo_pl.builtin.ledger import LedgerTraces
from lambda_grpo_pl.builtin.tasks import PREFIX
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.builtin.warm_up import WarmUpConfig, warm_up
from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)

CACHE_VARIABLE = "LAMBDA_GRPO_CACHE"
MODELS = {
    "arithmetic-tiny": WarmUpConfig(traces=ArithmeticTraces()),
    "ledger-tiny": WarmUpConfig(traces=LedgerTraces()),
}


def resolve_model_path(name: str) -> str:
    """Return the folder of a built-in model, made on first use (about a minute), or any other name unchanged.

    Raises `UserError` for a `builtin:` name that doesn't exist.
    """
    if not name.startswith(PREFIX):
        return name
    if name == PREFIX + smollm2.NAME:
        return str(smollm2.make_smollm2(cache_folder() / smollm2.NAME))
    config = MODELS.get(name.removeprefix(PREFIX))
    if config is None:
        known = ", ".join(PREFIX + known for known in (*MODELS, smollm2.NAME))
        raise UserError(
            f"model.policy.path is {name}, but that built-in model does not exist: use {known}, a folder, or a hub id."
        )
    return str(make_base_model(cache_folder() / f"{name.removeprefix(PREFIX)}-{_fingerprint(config)}", config))


def cache_folder() -> Path:
    """Where built-in models are kept: $LAMBDA_GRPO_CACHE, else `lambda_grpo_pl` in the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lambda_grpo_pl"


def make_base_model(path: str | Path, config: WarmUpConfig) -> Path:
    """Warm up a model and write it, with its tokenizer, as a Hugging Face folder; an existing folder is kept.

    Several processes may call this at once: one works and the others wait. The folder appears complete or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return path
        log.info("Making the built-in base model at %s: about a minute of supervised warm-up.", path)
        tokenizer = character_tokenizer()
        model = warm_up(config, tokenizer)
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(path)
    return path


def _fingerprint(config: WarmUpConfig) -> str:
    """Hash what decides the weights: the configuration and the source of the files that make them."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in ("tokenizer.py", "warm_up.py", config.traces.source):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]
