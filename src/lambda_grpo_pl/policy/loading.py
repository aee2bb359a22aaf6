"""Loading the policy and its frozen reference from a Hugging Face checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.policy.config import LoraSettings, PolicyConfig
from lambda_grpo_pl.policy.model import Policy
from lambda_grpo_pl.policy.packing import lay_out

log = logging.getLogger(__name__)


def check_checkpoint(path: str, config: PolicyConfig) -> None:
    """Read the checkpoint's configuration and tokenizer, no weights, and refuse what cannot be trained.

    Raises `ValueError` for a tokenizer without a pad token or end-of-sequence token, or with more tokens than the
    model's vocabulary.
    """
    model = AutoConfig.from_pretrained(path, revision=config.revision, trust_remote_code=config.trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(path, revision=config.revision)
    for name in ("pad", "eos"):
        if getattr(tokenizer, f"{name}_token_id") is None:
            raise ValueError(
                f"The tokenizer of {config.path} has no {name} token: set tokenizer.{name}_token to one of its "
                "special tokens, save it with save_pretrained, and point policy.path there."
            )
    vocabulary = model.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"The tokenizer of {config.path} has {len(tokenizer)} tokens but the model only {vocabulary}: they "
            "belong to different models, or tokens were added without resize_token_embeddings; save a matching pair."
        )


def load_policy(path: str, config: PolicyConfig, temperature: float = 1.0) -> Policy:
    """Load the trainable policy in float32, in train mode, its attention packed where the model allows it."""
    model = _load(path, config)
    if config.lora is not None:
        model = _add_lora(model, config.lora)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if config.lora is not None:
            model.enable_input_require_grads()
    policy = Policy(model, config, temperature)
    if policy.can_pack and not _packs_exactly(policy):
        if config.packing in ("packed", "shared_prefix"):
            raise ValueError(
                f"policy.packing is {config.packing}, but {config.path} gives other log-probabilities packed than "
                "padded (its attention does more than causal SDPA); set policy.packing to auto or padded."
            )
        log.warning("%s cannot be packed exactly: rows are padded instead (policy.packing: padded).", config.path)
        policy.causal_lm.set_attn_implementation("sdpa")
    return policy.train()


def load_reference(path: str, config: PolicyConfig, temperature: float, dtype: torch.dtype) -> Policy:
    """Load the frozen reference model of the KL term, in eval mode, in `dtype`."""
    model = _load(path, config).to(dtype)
    return Policy(model, config, temperature).requires_grad_(False).eval()


def _load(path: str, config: PolicyConfig) -> Any:
    attention = "sdpa" if config.packing == "padded" else PACKED
    return AutoModelForCausalLM.from_pretrained(
        path,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        dtype=torch.float32,
        attn_implementation=attention,
    )


def _add_lora(model: Any, lora: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if lora.target_modules == ["all-linear"] else lora.target_modules
    return get_peft_model(
        model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
    )


@torch.no_grad()
def _packs_exactly(policy: Policy, tolerance: float = 1e-3) -> bool:
    """Compare packed and padded log-probabilities on a tiny random batch: the check no list of model names can give."""
    was_training = policy.training
    policy.eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.causal_lm.config.get_text_config().vocab_size
    device = next(policy.parameters()).device

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(vocabulary, shape, generator=generator).to(device)

    prompts = Prompts(tokens(2, 5), torch.tensor([3, 5], device=device), ({}, {}))
    lengths = torch.tensor([4, 1, 6, 3], device=device)
    completions = Completions(tokens(4, 6), lengths, lengths > 6, torch.zeros(4, 6, device=device))
    rows = torch.arange(4, device=device)
    packed, shared, padded = (
        policy(lay_out(prompts, completions, rows, layout))[1].logprobs
        for layout in ("packed", "shared_prefix", "padded")
    )
    policy.train(was_training)
    return max(float((one - padded).abs().max()) for one in (packed, shared)) < tolerance
