"""From hidden states to distributions: the head's projection, and what a model does to its logits after it.

The latter is read from the configuration. A model's code, not its configuration, decides whether a documented attribute
applies and how: the check at loading (`exactness`) compares the result with the model's own logits, so a model that is
missing in the tables below is refused, not trained on wrong numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

HALF = (torch.float16, torch.bfloat16)
ROWS = 64
"""Rows of a chunk that are normalized at a time, so that temporary memory is far below that of the chunk's logits."""
DIVISORS = ("logits_scaling",)
"""Logits are divided by it: Granite (all variants), MiniCPM3."""
FACTORS = ("logit_scale", "lm_head_multiplier")
"""Logits are multiplied by it: Cohere, Falcon-H1."""
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""Logits y become c·tanh(y / c): Gemma 2, 3, 3n and 4, VaultGemma, NanoChat; RecurrentGemma."""
MULTIPLIES_BY_DIVISOR = ("hyperclovax",)
"""Model types that multiply by `logits_scaling`."""


class Distribution(NamedTuple):
    """What a chunk of m tokens predicts."""

    log_probs: Tensor
    """[m, V] log-probabilities in float32 or wider."""
    normalizer: Tensor
    """[m] what was subtracted from the logits to make them log-probabilities."""


class Head(NamedTuple):
    """The projection z = W h + b from hidden states to the vocabulary, and what follows it: softmax(g(scale·z) / T).

    g(y) is c·tanh(y / c) with a soft cap c, else y.
    """

    weight: Tensor
    """[V, H]"""
    bias: Tensor | None
    """[V] or None"""
    temperature: float
    """Logits are divided by it, as the sampler divides them."""
    chunk_size: int
    """Tokens a chunk."""
    scale: float = 1.0
    """The model's own factor."""
    soft_cap: float | None = None
    """The model's own bound on its logits."""

    @torch.no_grad()
    def predict(self, hidden: Tensor) -> Distribution:
        """[m, H] hidden states → the distribution at each, m × V numbers at a time."""
        logits = self._project(hidden)
        factor = self.scale / (self.temperature if self.soft_cap is None else self.soft_cap)
        if factor != 1.0:
            logits.mul_(factor)
        if self.soft_cap is not None:
            logits.tanh_().mul_(self.soft_cap / self.temperature)
        first = logits[:, 0].clone()
        for rows in torch.split(logits, ROWS):
            rows.copy_(rows.log_softmax(-1))
        return Distribution(logits, first - logits[:, 0])

    def _project(self, hidden: Tensor) -> Tensor:
        """[m, V] logits in float32 or wider. In half precision only CUDA multiplies without rounding the result."""
        if hidden.dtype not in HALF:
            return torch.nn.functional.linear(hidden, self.weight, self.bias)
        if not hidden.is_cuda:
            return torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        logits = torch.mm(hidden, self.weight.T, out_dtype=torch.float32)
        return logits if self.bias is None else logits.add_(self.bias)

    def differentiate(self, distribution: Distribution, labels: Tensor, upstream: Tensor) -> Tensor:
        """`upstream` [m], d loss / d log-probability → [m, V] d loss / d z, written over the log-probabilities."""
        upstream = upstream[:, None] * (self.scale / self.temperature)
        for log_probs, normalizer, label, slope in zip(
            *(torch.split(part, ROWS) for part in (*distribution, labels[:, None], upstream)), strict=True
        ):
            cap = None if self.soft_cap is None else self._cap_slope(log_probs, normalizer)
            log_probs.exp_().mul_(-slope).scatter_add_(1, label, slope)
            if cap is not None:
                log_probs.mul_(cap)
        return distribution.log_probs

    def _cap_slope(self, log_probs: Tensor, normalizer: Tensor) -> Tensor:
        """[m, V] derivative of the cap, 1 - tanh², from the capped logits."""
        assert self.soft_cap is not None
        capped = log_probs + normalizer[:, None]
        return capped.mul_(self.temperature / self.soft_cap).square_().neg_().add_(1.0)


class LogitTransform(NamedTuple):
    """Logits are multiplied by `scale`, then capped."""

    scale: float = 1.0
    soft_cap: float | None = None


def read_logit_transform(config: PretrainedConfig) -> LogitTransform:
    """Return what the model of `config` does to its logits after the head."""
    text = config.get_text_config()
    scale = 1.0
    for name in DIVISORS:
        value = getattr(text, name, None) or 1.0
        scale *= value if text.model_type in MULTIPLIES_BY_DIVISOR else 1.0 / value
    for name in FACTORS:
        value = getattr(text, name, None)
        scale *= 1.0 if value is None else value
    caps = [value for name in SOFT_CAPS if (value := getattr(text, name, None))]
    return LogitTransform(scale, caps[0] if caps else None)
