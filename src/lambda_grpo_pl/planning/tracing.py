"""How much memory one pass over a micro-batch takes: the code that trains, run on tensors without data.

The policy's own `forward` (transformer, attention, head) and its backward pass run on fake tensors, which have shapes,
types and lifetimes but no memory. A dispatch mode sees each storage when it is made and when it is freed, so the peak
contains activations, the chunk of logits, the head's gradient and every temporary, for any architecture and setting.

Memory grows linearly with the number of layers, so a deep model is traced at two small depths, and the line through
both is followed.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.policy import Policy, PolicyConfig, lay_out
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.policy.loading import build_on_meta
from lambda_grpo_pl.policy.packing import ALL, PADDED, Layout

ALIKE, MIXED = (1, 2), (2, 4)
"""Numbers of layers at which a deeper model is traced: of one kind, or of several, which mostly alternate."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Attributes of mixtures of experts, whose first layers may be dense."""


@dataclass(frozen=True, kw_only=True)
class PassShape:
    """One micro-batch and how it is computed."""

    num_rows: int
    """Rows of the micro-batch."""
    prompt_tokens: int
    """Tokens of each row's prompt."""
    response_tokens: int
    """Tokens of each row's response."""
    layout: Layout
    """How rows are laid out."""
    weights: torch.dtype
    """Type in which the pass finds the weights."""
    autocast: bool
    """Whether linear layers compute in bfloat16."""
    accumulates: bool
    """Whether gradients of earlier micro-batches exist: then new ones are added to them and freed."""
    fused: bool
    """Whether the head takes loss and gradient in one pass (objectives that are elementwise in the tokens)."""

    @property
    def num_tokens(self) -> int:
        """Tokens that pass through the transformer; the last of a response predicts nothing."""
        prompts = 1 if self.layout == "shared_prefix" else self.num_rows
        return prompts * self.prompt_tokens + self.num_rows * (self.response_tokens - 1)


class PassMemory(NamedTuple):
    """Bytes beyond weights, and beyond gradients where they exist already."""

    activations: float
    """What the transformer keeps for its backward pass."""
    head: float
    """What the head adds at its peak: a chunk of logits, and the gradient of its weight."""
    peak: float
    """The most that exists at one time during forward and backward."""


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up storages from when an operation makes them to when the last reference to them ends."""

    def __init__(self, known: list[Tensor]) -> None:
        """Count nothing that shares memory with a `known` tensor."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it returns."""
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            self._release(args[0])
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _release(self, summand: Any) -> None:
        """Autograd adds up gradients of one tensor in place, but not on tensor subclasses such as fake tensors."""
        key = summand.untyped_storage()._cdata
        self.live -= self._bytes.get(key, 0)
        self._bytes[key] = 0

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._bytes:
            return
        self._bytes[key] = storage.nbytes()
        self.live += self._bytes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key: int) -> None:
        self.live -= self._bytes.pop(key)


_TRACED: dict[tuple[str, str, PassShape], PassMemory] = {}
"""What was traced before: looking for changes that fit asks for the same pass many times."""


def trace_pass(config: PretrainedConfig, settings: PolicyConfig, shape: PassShape) -> PassMemory:
    """Return what forward and backward of one micro-batch take. Deep models are extrapolated from two depths."""
    key = config.to_json_string(), repr(replace(settings, tokens_per_micro_batch=None)), shape
    if key not in _TRACED:
        _TRACED[key] = _extrapolate(config, settings, shape)
    return _TRACED[key]


def _extrapolate(config: PretrainedConfig, settings: PolicyConfig, shape: PassShape) -> PassMemory:
    depth = config.get_text_config().num_hidden_layers
    first, second = _depths(config)
    if depth <= second:
        return trace_exactly(config, settings, shape)
    shallow, deep = (trace_exactly(with_depth(config, layers), settings, shape) for layers in (first, second))
    share = (depth - first) / (second - first)
    return PassMemory(*(low + share * (high - low) for low, high in zip(shallow, deep, strict=True)))


def _depths(config: PretrainedConfig) -> tuple[int, int]:
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    return MIXED if len(kinds) > 1 or any(getattr(text, name, None) for name in EXPERTS) else ALIKE


def with_depth(config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """Return a copy of `config` with its first `num_layers` layers."""
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers:  # one entry per layer, such as its kind
            setattr(text, name, value[:num_layers])
    text.num_hidden_layers = num_layers
    return changed


def trace_exactly(config: PretrainedConfig, settings: PolicyConfig, shape: PassShape) -> PassMemory:
    """Trace all layers of `config`."""
    attention = None if shape.layout == "padded" else PACKED
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = build_on_meta(config, settings, shape.weights, attention)
    with fake:
        model.to_empty(device="cpu")
    _base(model).tie_weights()
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if settings.lora is not None:
            model.enable_input_require_grads()
    layouts = PADDED if attention is None else ALL
    return _trace(Policy(model, settings, layouts=layouts).train(), shape, fake)


def _trace(policy: Policy, shape: PassShape, fake: FakeTensorMode) -> PassMemory:
    micro_batch = lay_out(*_rows(shape), torch.arange(shape.num_rows), shape.layout)
    if micro_batch.layout is not None:
        for window in (None, getattr(policy.causal_lm.config.get_text_config(), "sliding_window", None)):
            micro_batch.layout.blocks(window)  # made here, since their sizes depend on data, which fake tensors lack
    if shape.accumulates:
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
    tracker = StorageTracker([*policy.parameters(), *policy.buffers()])
    after_transformer: list[int] = []
    policy.backbone.register_forward_hook(lambda *_: after_transformer.append(tracker.live))
    with fake, tracker, torch.autocast("cpu", torch.bfloat16, enabled=shape.autocast, cache_enabled=False):
        if shape.fused:
            loss, scores = policy(micro_batch, lambda logprobs, place: -(logprobs - logprobs.detach()).exp().sum())
        else:
            _, scores = policy(micro_batch)
            loss = -(scores.logprobs - scores.logprobs.detach()).exp().sum()
        forward = tracker.peak
        del scores
        loss.backward()
    activations = after_transformer[0]
    return PassMemory(activations, max(forward - activations, 0), tracker.peak)


def _rows(shape: PassShape) -> tuple[Prompts, Completions]:
    """Rows of one group, so that the shared layout has something to share."""
    n, num_prompt, num_response = shape.num_rows, shape.prompt_tokens, shape.response_tokens
    prompts = Prompts(torch.zeros(1, num_prompt, dtype=torch.int64), torch.tensor([num_prompt]), ({},))
    lengths = torch.full((n,), num_response)
    ids = torch.zeros(n, num_response, dtype=torch.int64)
    return prompts, Completions(ids, lengths, torch.zeros(n, dtype=torch.bool), torch.zeros(n, num_response))


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _base(model: nn.Module) -> Any:
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
