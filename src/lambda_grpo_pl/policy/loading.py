"""Loading the policy and its frozen reference from a Hugging Face checkpoint."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig

from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy.config import LoraSettings, PolicyConfig
from lambda_grpo_pl.policy.exactness import Exactness, find_exactness
from lambda_grpo_pl.policy.model import Policy
from lambda_grpo_pl.policy.packing import Layout
from lambda_grpo_pl.policy.shrinking import turn_off_dropout

log = logging.getLogger(__name__)


def check_checkpoint(path: str, config: PolicyConfig) -> None:
    """Read the checkpoint's configuration and tokenizer, no weights, and refuse what cannot be trained.

    Raises `UserError` for a tokenizer without an end-of-sequence token, or with more tokens than the model's
    vocabulary. A missing pad token is fine: padding never reaches the loss, so the data module takes another token.
    """
    path = resolve_model_path(path)
    model = _read_config(path, config)
    tokenizer = AutoTokenizer.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.policy.path is {config.path}, whose tokenizer has no end-of-sequence token, so no response could "
            "end: set eos_token in its tokenizer_config.json."
        )
    vocabulary = model.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"model.policy.path is {config.path}, whose tokenizer has {len(tokenizer)} tokens but the model has only "
            f"{vocabulary}: they belong to different models, or tokens were added without resize_token_embeddings. "
            "Save a matching pair and set model.policy.path to it."
        )


def load_policy(
    path: str,
    config: PolicyConfig,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
    read_weights: bool = True,
    device: torch.device | None = None,
) -> Policy:
    """Load the trainable policy in train mode, without dropout, its attention packed where that is exact.

    Weights are float32. Under LoRA the frozen base is in `compute_dtype` (what autocast computes in) unless
    `config.lora.base_dtype` says otherwise. Without `read_weights` all tensors are on the CPU and hold nothing, which
    takes no memory before they are written: under FSDP2 a rank receives its shards of them (`broadcast_weights`).
    `device` is where it will train, whose kernels are checked; None: where tensors are made by default.

    Raises `UserError` for a model whose log-probabilities would not be its own, or not in the layout asked for.
    """
    path = resolve_model_path(path)
    model_config = _read_config(path, config)
    dropouts = turn_off_dropout(model_config)
    if dropouts:
        log.warning("%s has dropout (%s): it is off while training.", config.path, ", ".join(dropouts))
    exactness = find_exactness(model_config, config, device or torch.empty(0).device)
    _check_packing(config, exactness)
    dtype = torch.float32 if config.lora is None else config.lora.resolve_base_dtype(compute_dtype)
    model = _load(path, config, model_config, exactness.attention, dtype, read_weights)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if config.lora is not None:
            model.enable_input_require_grads()
    policy = Policy(model, config, temperature, exactness.layouts, exactness.longest_row)
    if config.lora is not None:
        leave_out_frozen(policy)
    return policy.train()


def load_reference(
    path: str,
    config: PolicyConfig,
    temperature: float,
    dtype: torch.dtype,
    layouts: tuple[Layout, ...] = (),
    read_weights: bool = True,
    device: torch.device | None = None,
) -> Policy:
    """Load the frozen reference model of the KL term, in eval mode, in `dtype`; the rest is as in `load_policy`.

    Raises `UserError` if it cannot score exactly in each of the policy's `layouts`.
    """
    path, config = resolve_model_path(path), replace(config, lora=None)
    model_config = _read_config(path, config)
    turn_off_dropout(model_config)
    exactness = find_exactness(model_config, config, device or torch.empty(0).device)
    missing = [layout for layout in layouts if layout not in exactness.layouts]
    if missing and config.packing != "padded":
        raise UserError(
            f"The reference model {path} cannot be scored in the policy's layout {missing[0]}: set "
            "model.policy.packing to padded, or model.policy.reference_path to a model of the policy's architecture."
        )
    model = _load(path, config, model_config, exactness.attention, dtype, read_weights)
    policy = Policy(model, config, temperature, exactness.layouts, exactness.longest_row)
    return policy.requires_grad_(False).eval()


def _read_config(path: str, config: PolicyConfig) -> PretrainedConfig:
    """Read a checkpoint's configuration. Raises `UserError` if that would fail or run the checkpoint's code."""
    try:
        read: PretrainedConfig = AutoConfig.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.policy.path is {config.path}, which comes with code that is not run by default: use a "
                "model that transformers supports, or review the code and set model.policy.trust_remote_code to true."
            ) from error
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"model.policy.path is {config.path}, whose config.json cannot be read ({reason}): fix that file, or use "
            "another model."
        ) from error
    return read


def _check_packing(config: PolicyConfig, exactness: Exactness) -> None:
    """Say once which layouts `auto` will not take; refuse one that the user asked for."""
    if config.packing not in ("auto", *exactness.layouts):
        raise UserError(
            f"model.policy.packing is {config.packing}, but in that layout the log-probabilities of {config.path} "
            f"are not the model's own; set model.policy.packing to auto or {exactness.layouts[0]}."
        )
    if config.packing == "auto" and "packed" not in exactness.layouts:
        log.warning("%s cannot be packed exactly: rows are padded (model.policy.packing: padded).", config.path)
    elif config.packing == "auto" and "shared_prefix" not in exactness.layouts:
        log.warning("%s cannot share prompts exactly: rows are packed (model.policy.packing: packed).", config.path)


def _load(
    path: str,
    config: PolicyConfig,
    model_config: PretrainedConfig,
    attention: str | None,
    dtype: torch.dtype,
    read_weights: bool,
) -> Any:
    if not read_weights:
        model = build_on_meta(model_config, config, dtype, attention).to_empty(device="cpu")
        model.tie_weights()
        _read_generation_config(model, path, config)
        return model
    model = AutoModelForCausalLM.from_pretrained(
        path,
        config=model_config,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        dtype=dtype,
        attn_implementation=attention,
    )
    return model if config.lora is None else add_lora(model, config.lora)


def _read_generation_config(model: Any, path: str, config: PolicyConfig) -> None:
    """Read what `from_pretrained` reads beside the weights: on every rank it names tokens that end a response."""
    causal_lm = model if config.lora is None else model.get_base_model()
    with suppress(OSError):  # a checkpoint need not have the file
        causal_lm.generation_config = GenerationConfig.from_pretrained(path, revision=config.revision)


def build_on_meta(config: PretrainedConfig, settings: PolicyConfig, dtype: torch.dtype, attention: str | None) -> Any:
    """Build the model that `load_policy` would load, adapters included, on the meta device."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=settings.trust_remote_code
        )
        return model if settings.lora is None else add_lora(model, settings.lora)


def add_lora(model: Any, lora: LoraSettings) -> Any:
    """Return `model` in peft's wrapper, with untrained adapters."""
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if lora.target_modules == ["all-linear"] else lora.target_modules
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        layers = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise UserError(
            f"model.policy.lora.target_modules is {lora.target_modules}, which names no layer of the model: use "
            f"all-linear, or some of {', '.join(sorted(layers))}."
        ) from error


def leave_out_frozen(policy: Policy) -> None:
    """Keep frozen weights out of the policy's state, and so out of checkpoints: they come with the base model.

    Loading such a state misses none of them; one that has them is loaded as a whole.
    """
    policy.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
    policy.register_load_state_dict_post_hook(_forgive_frozen)  # type: ignore[no-untyped-call]


def _drop_frozen(policy: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in _frozen_names(policy):
        state.pop(f"{prefix}{name}", None)


def _forgive_frozen(policy: nn.Module, keys: Any) -> None:
    frozen = _frozen_names(policy)
    keys.missing_keys[:] = [key for key in keys.missing_keys if not any(key.endswith(name) for name in frozen)]


def _frozen_names(policy: nn.Module) -> list[str]:
    parameters = policy.named_parameters(remove_duplicate=False)  # tied weights have two names
    return [name for name, parameter in parameters if not parameter.requires_grad]
