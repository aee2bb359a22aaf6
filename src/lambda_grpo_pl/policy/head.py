"""Log-probabilities from hidden states in chunks: memory O(chunk × V), never tokens × V.

A token's loss depends on its own log-probability and on numbers known beforehand (old and reference
log-probabilities, advantage, weight, count). So its derivative is known inside the chunk, and the head's forward
*and* backward are one pass (`fused_token_loss`): three matrix products a chunk like the naive path, none repeated, no
logits kept. Where the loss mixes tokens (a sequence-level ratio), `chunked_logprobs` recomputes a chunk's logits in
its backward instead.

What a model does to its logits after the head, a factor (Granite, Cohere) or a soft cap (Gemma 2), is part of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from lambda_grpo_pl.policy.logits import ROWS, Distribution, Head

TokenLoss = Callable[[Tensor, slice], Tensor]
"""(log-probabilities [m] of one chunk, its place in the M tokens) → scalar loss; must be elementwise in the tokens."""


class TokenScores(NamedTuple):
    """What the head says of M response tokens."""

    logprobs: Tensor
    """[M] log-probability (nats) of each label."""
    entropy: Tensor
    """[M] entropy (nats) of each position's distribution, detached."""


def _slices(num_tokens: int, chunk_size: int) -> list[slice]:
    return [slice(start, min(start + chunk_size, num_tokens)) for start in range(0, num_tokens, chunk_size)]


def _pick(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(1, labels[:, None]).squeeze(1)


def _entropy(log_probs: Tensor) -> Tensor:
    """[m, V] log-probabilities → [m] entropy (nats), without a second [m, V]."""
    return torch.cat([-(rows.exp().mul_(rows)).sum(-1) for rows in torch.split(log_probs, ROWS)])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _LogitGradients:
    """Collects d loss / d hidden, weight and bias, chunk by chunk, from d loss / d logits."""

    def __init__(self, hidden: Tensor, head: Head, weight_trains: bool) -> None:
        self.head = head
        self.hidden = torch.zeros_like(hidden)
        weight = head.weight
        self.weight = (
            torch.zeros(weight.shape, dtype=_wide(weight.dtype), device=weight.device) if weight_trains else None
        )
        self.bias = None if head.bias is None else torch.zeros_like(head.bias)

    def add(self, chunk: slice, hidden: Tensor, distribution: Distribution, labels: Tensor, upstream: Tensor) -> None:
        """Add one chunk's; `upstream` [m] is d loss / d log-probability, and the distribution is overwritten."""
        logits = self.head.differentiate(distribution, labels, upstream).to(hidden.dtype)
        self.hidden[chunk] = logits @ self.head.weight.to(hidden.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(logits.T, hidden)
        else:
            self.weight += logits.T @ hidden
        if self.bias is not None:
            self.bias += logits.sum(0)


class _FusedTokenLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head, token_loss: TokenLoss
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take loss, scores and every gradient in one pass over the chunks."""
        gradients = _LogitGradients(hidden, head, weight.requires_grad)
        total = torch.zeros((), dtype=_wide(hidden.dtype), device=hidden.device)
        logprobs = torch.empty(labels.shape, dtype=total.dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs)

        def learn(chunk: slice) -> None:
            """One chunk; a function, so that its logits are gone before those of the next are made."""
            distribution = head.predict(hidden[chunk])
            with torch.enable_grad():
                leaf = _pick(distribution.log_probs, labels[chunk]).detach().requires_grad_()
                loss = token_loss(leaf, chunk)
                (upstream,) = torch.autograd.grad(loss, leaf)
            logprobs[chunk], entropy[chunk] = leaf.detach(), _entropy(distribution.log_probs)
            total.add_(loss.detach())
            gradients.add(chunk, hidden[chunk], distribution, labels[chunk], upstream)

        for chunk in _slices(len(labels), head.chunk_size):
            learn(chunk)
        ctx.gradients = (gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = (hidden.dtype, weight.dtype)
        ctx.mark_non_differentiable(logprobs, entropy)
        return total, logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` left."""
        hidden, weight, bias = ctx.gradients
        ctx.gradients = (
            None  # scaled in place below, since a copy of the weight's is V × H: they serve one backward pass
        )
        scale = upstream[0]
        return (
            hidden.mul_(scale).to(ctx.dtypes[0]),
            None if weight is None else weight.mul_(scale).to(ctx.dtypes[1]),
            None if bias is None else bias.mul_(scale),
            None,
            None,
            None,
        )


class _ChunkedLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head
    ) -> tuple[Tensor, Tensor]:
        """Score chunk by chunk, keeping no logits."""
        logprobs = torch.empty(labels.shape, dtype=_wide(hidden.dtype), device=hidden.device)
        entropy = torch.empty_like(logprobs)
        for chunk in _slices(len(labels), head.chunk_size):
            log_probs = head.predict(hidden[chunk]).log_probs
            logprobs[chunk] = _pick(log_probs, labels[chunk])
            entropy[chunk] = _entropy(log_probs)
            del log_probs  # before the next chunk's logits are made
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.settings = head[2:]
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Make each chunk's logits again, and take the gradients from them."""
        hidden, weight, bias, labels = ctx.saved_tensors
        head = Head(weight, bias, *ctx.settings)
        gradients = _LogitGradients(hidden, head, ctx.needs_input_grad[1])
        for chunk in _slices(len(labels), head.chunk_size):
            gradients.add(chunk, hidden[chunk], head.predict(hidden[chunk]), labels[chunk], upstream[0][chunk])
        weight_gradient = None if gradients.weight is None else gradients.weight.to(weight.dtype)
        return gradients.hidden, weight_gradient, gradients.bias, None, None


def chunked_logprobs(hidden: Tensor, labels: Tensor, head: Head) -> TokenScores:
    """Log-probability and entropy of `labels` [M] at `hidden` [M, H]; differentiable, logits recomputed in backward.

    Shapes: hidden [M, H], labels [M] int64. Peak extra memory is chunk × V (and V × H for the weight's gradient).
    """
    with _autocast_off(hidden):
        hidden, head = _same_dtype(hidden, head)
        apply = cast(Callable[..., tuple[Tensor, Tensor]], _ChunkedLogprobs.apply)
        return TokenScores(*apply(hidden, head.weight, head.bias, labels, _detached(head)))


def fused_token_loss(hidden: Tensor, labels: Tensor, head: Head, token_loss: TokenLoss) -> tuple[Tensor, TokenScores]:
    """Σ of an elementwise token loss, its gradient taken in the same pass over the chunks.

    Shapes: hidden [M, H], labels [M] int64. Returns the scalar loss (differentiable in hidden, weight and bias) and the
    detached scores. `token_loss` is called once a chunk, in order.
    """
    with _autocast_off(hidden):
        hidden, head = _same_dtype(hidden, head)
        apply = cast(Callable[..., tuple[Tensor, Tensor, Tensor]], _FusedTokenLoss.apply)
        loss, logprobs, entropy = apply(hidden, head.weight, head.bias, labels, _detached(head), token_loss)
    return loss, TokenScores(logprobs, entropy)


def _detached(head: Head) -> Head:
    return head._replace(weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


def _autocast_off(hidden: Tensor) -> torch.autocast:
    return torch.autocast(hidden.device.type, enabled=False)


def _same_dtype(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Cast the float32 master weight to the hidden states' (autocast) dtype, inside autograd.

    The softmax is float32 everywhere. The logits of half-precision operands are float32 on CUDA; elsewhere the product
    rounds them to the operands' dtype first.
    """
    if head.weight.dtype == hidden.dtype:
        return hidden, head
    bias = None if head.bias is None else head.bias.to(hidden.dtype)
    return hidden, head._replace(weight=head.weight.to(hidden.dtype), bias=bias)
