"""The built-in base models: made on first use by a short warm-up, and kept in the user's cache folder.

`resolve_model_path("builtin:arithmetic-tiny")` makes the model once and returns its folder from then on; every other
name passes through, so it can be called wherever a model path is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from transformers import PretrainedConfig

from lambda_grpo_pl.builtin.arithmetic import ArithmeticTraces
from lambda_grpo_pl.builtin.cache import cache_folder, make_once
from lambda_grpo_pl.builtin.fine_tuning import FineTuningConfig
from lambda_grpo_pl.builtin.ledger import LONG, LedgerTraces
from lambda_grpo_pl.builtin.smollm2 import NAME, make_fine_tuned_smollm2, make_smollm2
from lambda_grpo_pl.builtin.tasks import PREFIX
from lambda_grpo_pl.builtin.texts import TextTraces
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.builtin.warm_up import Traces, WarmUpConfig, model_config, warm_up
from lambda_grpo_pl.builtin.word_problems import WordProblemTraces
from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)


def _regime(traces: Traces, num_steps: int = 480) -> WarmUpConfig:
    """One size for all length regimes: one layer learns running totals within seconds."""
    return WarmUpConfig(traces=traces, hidden_size=64, num_layers=1, num_steps=num_steps, batch_size=32)


MODELS = {
    "arithmetic-tiny": WarmUpConfig(traces=ArithmeticTraces()),
    "ledger-tiny": _regime(LedgerTraces(habit="wander", clean_share=0.4, right_share=0.09), num_steps=800),
    "switch-tiny": _regime(
        LedgerTraces(habit="switch", clean_share=0.4, right_share=0.12, mean_tail=60), num_steps=800
    ),
    "ramble-tiny": _regime(LedgerTraces(habit="ramble", clean_share=0.4, right_share=0.1), num_steps=800),
    "fail-fast-tiny": _regime(LedgerTraces(habit="stop", num_digits=LONG)),
    "padding-tiny": _regime(LedgerTraces(habit="continue", mean_padding=25)),
    "equal-lengths-tiny": _regime(LedgerTraces(habit="continue")),
    "translation-tiny": _regime(TextTraces(kind="translation"), num_steps=800),
    "summary-tiny": _regime(TextTraces(kind="summary"), num_steps=800),
}
"""Character models that are trained from nothing."""
FINE_TUNED = {"smollm2-135m-words": FineTuningConfig(traces=WordProblemTraces())}
"""SmolLM2-135M-Instruct after a warm-up."""


def builtin_config(name: str) -> PretrainedConfig | None:
    """Return the configuration of a model that is made on first use, without making it; None for any other name."""
    config = MODELS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return None if config is None else model_config(config, character_tokenizer())


def resolve_model_path(name: str) -> str:
    """Return the folder of a built-in model, made on first use (some minutes), or any other name unchanged.

    Raises `UserError` for a `builtin:` name that doesn't exist.
    """
    short = name.removeprefix(PREFIX)
    if short == name:
        return name
    if short in MODELS:
        return str(make_base_model(_folder(short, MODELS[short], "tokenizer.py", "warm_up.py"), MODELS[short]))
    if short == NAME:
        return str(make_smollm2(cache_folder() / NAME))
    if short in FINE_TUNED:
        base = make_smollm2(cache_folder() / NAME)
        folder = _folder(short, FINE_TUNED[short], "smollm2.py", "fine_tuning.py")
        return str(make_fine_tuned_smollm2(folder, base, FINE_TUNED[short]))
    known = ", ".join(PREFIX + known for known in (*MODELS, NAME, *FINE_TUNED))
    raise UserError(
        f"model.policy.path is {name}, but that built-in model does not exist: use {known}, a folder, or a hub id."
    )


def make_base_model(path: str | Path, config: WarmUpConfig) -> Path:
    """Warm up a model and write it, with its tokenizer, as a Hugging Face folder; an existing folder is kept."""

    def write(folder: Path) -> None:
        log.info("Making the built-in base model at %s: about a minute of supervised warm-up.", path)
        tokenizer = character_tokenizer()
        warm_up(config, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return make_once(path, write)


def _folder(name: str, config: WarmUpConfig | FineTuningConfig, *sources: str) -> Path:
    """Name the model by a hash of what decides the weights: the configuration and the files that make them."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for source in (*sources, config.traces.source):
        digest.update(Path(__file__).with_name(source).read_bytes())
    return cache_folder() / f"{name}-{digest.hexdigest()[:12]}"
