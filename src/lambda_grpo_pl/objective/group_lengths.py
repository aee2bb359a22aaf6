"""What a family of length preferences sees of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, group_std, widen

STD_EPS = 1e-8
"""δ of z = (ℓ − ℓ̄)/(σ + δ), in tokens. Equal lengths give z = 0 and so f = 1."""

Total = Callable[[Tensor], Tensor]
"""Adds a small tensor over all parts of an update, which ranks hold; it may write into its argument."""


def one_part(values: Tensor) -> Tensor:
    """The `Total` of an update that is here as a whole."""
    return values


class GroupLengths(NamedTuple):
    """What a family sees of a batch."""

    lengths: Tensor
    """[B, G] float64 tokens."""
    active: Tensor
    """[B, G] bool."""
    mean_length: Tensor
    """[] or [B, 1] tokens: ℓ̄ over the responses that Z counts (`TokenCount.mean_length`)."""
    advantages: Tensor | None = None
    """[B, G] of which a family may read the sign; None where nobody has compared the responses."""
    total: Total = one_part
    """Adds over the parts of the update."""

    @classmethod
    def of(
        cls,
        lengths: Tensor,
        mean_length: Tensor,
        active: Tensor | None,
        advantages: Tensor | None = None,
        total: Total = one_part,
    ) -> GroupLengths:
        """Widen int64 lengths and fill in the mask."""
        return cls(widen(lengths), active_mask(lengths, active), widen(mean_length), advantages, total)

    @property
    def positive(self) -> Tensor:
        """[B, G] lengths of at least 1: an empty response has no token to weigh, its f only has to be finite."""
        return self.lengths.clamp(min=1)

    def standardised(self) -> Tensor:
        """[B, G] z = (ℓ − ℓ̄)/(σ + δ) within the group, with the population's σ, hence |z| ≤ √(G − 1); 0 if inactive."""
        centred = (self.lengths - group_mean(self.lengths, self.active)) * self.active
        return centred / (group_std(self.lengths, self.active, unbiased=False) + STD_EPS)

    def mean_length_of_sign(self) -> Tensor:
        """[B, G] the mean length in the group of the active responses with this one's sign of A; 1 if inactive.

        Errors: `ValueError` without advantages.
        """
        if self.advantages is None:
            raise ValueError("This family reads the sign of the advantages: pass them as `advantages`.")
        means = torch.ones_like(self.lengths)
        for sign in (-1, 0, 1):
            members = self.active & (self.advantages.sign() == sign)
            means = torch.where(members, group_mean(self.positive, members), means)
        return means

    def softmax(self, logits: Tensor) -> Tensor:
        """[B, G] n · softmax over the n active responses; 0 at the others."""
        # The lowest finite number and not −inf: a group without an active response must not make NaN, nor its gradient.
        weights = logits.masked_fill(~self.active, torch.finfo(logits.dtype).min).softmax(-1)
        return group_size(self.active) * weights * self.active

    def add_up(self, values: Tensor) -> Tensor:
        """Sum small tensors over all parts of the update, exactly differentiable on each."""
        added: Tensor = _AddUp.apply(values, self.total)  # type: ignore[no-untyped-call]
        return added

    def centre(self, values: Tensor, weights: Tensor) -> Tensor:
        """[B, G] `values` minus their mean under `weights`, which sum to n."""
        return values - group_mean(values * weights, self.active)


class _AddUp(torch.autograd.Function):
    """The sum over ranks, whose gradient on each rank is the sum of what all ranks' objectives ask for."""

    generate_vmap_rule = True
    """`torch.vmap` weighs many runs at once; one process holds each of them as a whole."""

    @staticmethod
    def forward(values: Tensor, total: Total) -> Tensor:  # type: ignore[override]
        return total(values.clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Total], output: Tensor) -> None:
        ctx.total = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.total(gradient.clone()), None
