"""From sums over tokens on each rank to the scalars of a dashboard, in two small collectives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor, str], Tensor]
"""(vector, "sum" | "mean" | "max") → the vector reduced over ranks."""

TOKEN_MEANS = {
    "entropy": "policy/entropy",
    "clip_low": "policy/clip_low",
    "clip_high": "policy/clip_high",
    "clip_dual": "policy/clip_dual",
    "kl": "policy/reference_kl",
    "policy_shift": "policy/shift_from_old",
    "sampler_gap": "sampler/gap_mean",
    "sampler_weight": "sampler/importance_weight",
}
"""Sums over tokens that are shown as means over tokens."""
EXTREMES = {
    "ratio_min": "policy/ratio_min",
    "ratio_max": "policy/ratio_max",
    "sampler_gap_max": "sampler/gap_max",
}


def summarise_tokens(totals: dict[str, Tensor], device: torch.device, reduce: Reduce) -> dict[str, Tensor]:
    """Means over all tokens that were trained on, and extremes, over all ranks; a rank may have trained on none.

    `sampler/gap_*` is |log π_old − log π_sampler| before any correction: the mismatch of the two engines.
    """
    zero = torch.zeros((), device=device)
    sums = reduce(torch.stack([totals.get(name, zero).float() for name in ("num_tokens", *TOKEN_MEANS)]), "sum")
    signs = {name: -1.0 if name.endswith("_min") else 1.0 for name in EXTREMES}
    lowest = torch.full_like(zero, -torch.inf)
    extremes = reduce(
        torch.stack([sign * totals[name].float() if name in totals else lowest for name, sign in signs.items()]), "max"
    )
    summary = dict(zip(TOKEN_MEANS.values(), sums[1:] / sums[0].clamp(min=1), strict=True))
    for (name, sign), value in zip(signs.items(), extremes, strict=True):
        if torch.isfinite(value):
            summary[EXTREMES[name]] = sign * value
    return summary | {"policy/trained_tokens": sums[0]}


def mean_over_ranks(values: dict[str, Tensor], prefix: str, reduce: Reduce) -> dict[str, Tensor]:
    """Average scalars over ranks in one collective and put `prefix/` before their names."""
    vector = reduce(torch.stack([value.float() for value in values.values()]), "mean")
    return {f"{prefix}/{name}": value for name, value in zip(values, vector, strict=True)}
