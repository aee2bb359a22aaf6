"""Statistics within one prompt's group, over its active responses only.

Every tensor here is [B, G] and tiny beside a forward pass, so the arithmetic is float64: equal rewards then have a
spread of exactly zero, and lengths of 30,000 tokens lose no digit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """`values` in float64, or in float32 on Apple's MPS, which has no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def active_mask(values: Tensor, active: Tensor | None) -> Tensor:
    """[B, G] bool: which responses count; all of them where `active` is None."""
    return torch.ones_like(values, dtype=torch.bool) if active is None else active.bool()


def group_size(active: Tensor) -> Tensor:
    """[B, 1] number of active responses, at least 1 so that an empty group divides to 0 and not to NaN."""
    return widen(active.sum(-1, keepdim=True)).clamp(min=1)


def group_mean(values: Tensor, active: Tensor) -> Tensor:
    """[B, 1] mean over the active responses of [B, G] `values`; 0 for a group without any."""
    return (values * active).sum(-1, keepdim=True) / group_size(active)


def group_std(values: Tensor, active: Tensor, *, unbiased: bool) -> Tensor:
    """[B, 1] standard deviation over the active responses, 0 for a single one; `unbiased` divides by n − 1."""
    squares = ((values - group_mean(values, active)) * active).square().sum(-1, keepdim=True)
    num_free = group_size(active) - int(unbiased)
    return (squares / num_free.clamp(min=1)).sqrt()
