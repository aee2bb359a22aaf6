"""Are the policy's log-probabilities the model's own? Measured at loading, on a small copy with random weights.

No list of model names can answer this. The copy (`shrinking`) has every kind of layer of the model, and its rows are
longer than every sliding window and rotary switch. Each layout is scored as it trains, in train mode, and compared with
the logits of the model's own `forward`, one row at a time with transformers' eager attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.policy.config import PolicyConfig
from lambda_grpo_pl.policy.model import Policy
from lambda_grpo_pl.policy.packing import ALL, PADDED, Layout, lay_out
from lambda_grpo_pl.policy.shrinking import SWITCH, VOCABULARY, build, is_small, rotary_switch, shrink

TOLERANCE = 1e-4
"""Largest difference in nats, float32."""
HALF_TOLERANCE = 0.15
"""Largest mean difference in nats under bfloat16 autocast."""
TEMPERATURE = 0.7


class Exactness(NamedTuple):
    """How a model may be trained."""

    attention: str | None
    """transformers' name of its attention; None: the model's default."""
    layouts: tuple[Layout, ...]
    """Layouts in which log-probabilities are the model's own."""
    longest_row: int | None
    """Tokens of prompt and response up to which that holds; None: any."""


class Reference(NamedTuple):
    """A small copy's own log-probabilities."""

    config: PretrainedConfig
    """Of the copy."""
    weights: dict[str, Tensor]
    logprobs: Tensor
    """[M] of the response tokens of `make_rollout`."""


def find_exactness(config: PretrainedConfig, settings: PolicyConfig, device: torch.device | None = None) -> Exactness:
    """Find the layouts in which the model of `config` trains on its own log-probabilities.

    On a CUDA `device` the kernels that train in bfloat16 are checked as well.

    Raises `UserError` if there is none, naming what the model has.
    """
    limit = rotary_switch(config)
    # With a switch the rows of the check are on both sides of it. A model that fails there may be exact below it.
    for switch, longest_row in ((SWITCH, None), (None, limit)) if limit else ((None, None),):
        reference = measure_reference(config, settings, switch)
        for attention, layouts in ((PACKED, ALL), (None, PADDED)):
            findings = compare_layouts(reference, settings, attention, layouts, device)
            exact = tuple(layout for layout in layouts if not findings[layout])
            if exact:
                return Exactness(attention, exact, longest_row)
    raise UserError(
        f"model.policy.path {settings.path} ({config.model_type}) cannot be trained: its log-probabilities would not "
        f"be the model's own ({findings['padded']}). It has {describe(config)}. Use a model of another architecture."
    )


def measure_reference(config: PretrainedConfig, settings: PolicyConfig, switch: int | None) -> Reference:
    """Score `make_rollout` with a small copy's own `forward`, one row at a time.

    Raises `UserError` if no small copy of the model runs.
    """
    failures = []
    for narrow in (True, False):
        try:
            small = shrink(config, narrow, switch)
            if not is_small(small, settings.trust_remote_code):
                continue
            model = build(small, "eager", settings.trust_remote_code).eval()
            return Reference(small, model.state_dict(), _own_logprobs(model))
        except Exception as error:  # model code of others, on a configuration that we changed
            failures.append(f"{type(error).__name__}: {str(error)[:200]}")
    raise UserError(
        f"model.policy.path {settings.path} ({config.model_type}) cannot be checked: a small copy of the model does "
        f"not run ({'; '.join(failures) or 'it is too large'}). Use a model of another architecture."
    )


def compare_layouts(
    reference: Reference,
    settings: PolicyConfig,
    attention: str | None,
    layouts: tuple[Layout, ...],
    device: torch.device | None = None,
) -> dict[str, str]:
    """For each layout: what is wrong with it, or an empty string."""
    try:
        policy = build_policy(reference, settings, attention)
    except Exception as error:  # models without this interface fail in as many ways as there are models
        return dict.fromkeys(layouts, f"{type(error).__name__}: {str(error)[:200]}")
    findings: dict[str, str] = {layout: _compare(policy, reference, layout, half=False) for layout in layouts}
    if device is not None and device.type == "cuda":
        policy.to(device)
        for layout in layouts:
            findings[layout] = findings[layout] or _compare(policy, reference, layout, half=True)
    return findings


def build_policy(reference: Reference, settings: PolicyConfig, attention: str | None) -> Policy:
    """The small copy as a policy in train mode."""
    model = build(reference.config, attention, settings.trust_remote_code)
    model.load_state_dict(reference.weights)
    return Policy(model, replace(settings, compile=False, head_chunk=7), TEMPERATURE).train()


@torch.no_grad()
def _compare(policy: Policy, reference: Reference, layout: Layout, half: bool) -> str:
    device = next(policy.parameters()).device
    prompts, completions = make_rollout()
    prompts = Prompts(prompts.ids.to(device), prompts.lengths.to(device), prompts.examples)
    completions = Completions(*(field.to(device) for field in completions))
    rows = torch.arange(len(completions.lengths), device=device)
    try:
        with device, torch.random.fork_rng(devices=[]), torch.autocast(device.type, torch.bfloat16, enabled=half):
            logprobs = policy(lay_out(prompts, completions, rows, layout))[1].logprobs.float().cpu()
    except Exception as error:  # model code of others, in a layout that it was not written for
        return f"{type(error).__name__}: {str(error)[:200]}"
    gaps = (logprobs - reference.logprobs).abs()
    gap, tolerance = (gaps.mean(), HALF_TOLERANCE) if half else (gaps.max(), TOLERANCE)
    return "" if gap <= tolerance else f"they differ by {float(gap):.2g} nats"


@torch.no_grad()
def _own_logprobs(model: Any) -> Tensor:
    prompts, completions = make_rollout()
    with torch.device("cpu"):
        rows = [_row_logprobs(model, prompts.tokens(row // 3), completions.tokens(row)) for row in range(6)]
    return torch.cat(rows)


def _row_logprobs(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """[L] log-probabilities of a response by the model's own `forward`, at `TEMPERATURE`."""
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / TEMPERATURE
    scores: Tensor = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    return scores


def make_rollout() -> tuple[Prompts, Completions]:
    """Two prompts with three responses each; rows have 10 to 31 tokens."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, VOCABULARY, (2, 12), generator=generator)
        responses = torch.randint(1, VOCABULARY, (6, 20), generator=generator)
        lengths = torch.tensor([20, 1, 9, 4, 15, 11])
        truncated = torch.zeros(6, dtype=torch.bool)
        prompts = Prompts(ids, torch.tensor([12, 7]), ({}, {}))
        return prompts, Completions(responses, lengths, truncated, torch.zeros(6, 20))


FEATURES = {
    "alibi": "ALiBi position biases",
    "attention_chunk_size": "chunked attention",
    "block_types": "recurrent layers",
    "final_logit_softcapping": "a soft cap on its logits",
    "logits_soft_cap": "a soft cap on its logits",
    "logits_scaling": "scaled logits",
    "logit_scale": "scaled logits",
    "attn_logit_softcapping": "a soft cap on its attention scores",
    "sliding_window": "sliding windows",
    "state_size": "a recurrent state",
    "mamba_d_state": "a recurrent state",
}
"""Attributes of configurations that go beyond causal attention and a linear head, in words."""


def describe(config: PretrainedConfig) -> str:
    """What a model has beyond causal attention and a linear head, as its configuration tells."""
    text = config.get_text_config()
    parts = [words for name, words in FEATURES.items() if getattr(text, name, None)]
    kinds = sorted(set(getattr(text, "layer_types", None) or []) - {"full_attention", "sliding_attention"})
    parts += [f"{kind} layers" for kind in kinds]
    if rotary_switch(config):
        parts.append("rotary frequencies that depend on the longest row of a batch")
    return ", ".join(dict.fromkeys(parts)) or "a computation that its configuration does not name"
