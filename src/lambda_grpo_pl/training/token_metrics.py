"""From what each update of a rollout leaves on each rank to the scalars of a dashboard, in three small collectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce as fold
from typing import NamedTuple

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
"""Sums over tokens that are shown as means over the trained tokens."""
TOKEN_SUMS = {"num_tokens": "policy/trained_tokens", "model_tokens": "train/model_tokens"}
"""Sums that are shown as sums: response tokens in the loss, and tokens that passed through the model in training."""
EXTREMES = {
    "ratio_min": "policy/ratio_min",
    "ratio_max": "policy/ratio_max",
    "sampler_gap_max": "sampler/gap_max",
}
"""Extremes over tokens."""
LATEST = ("preference/lambda", "preference/correlation", "policy/learning_rate")
"""Shown as the last update of the rollout used them; every other scalar of an update is averaged over the updates."""


class UpdateStatistics(NamedTuple):
    """What one update leaves for the dashboard."""

    totals: dict[str, Tensor]
    """Sums and extremes over this rank's tokens (`merge_totals`)."""
    preference: dict[str, Tensor]
    """Scalars about f on this rank that may be averaged over ranks, without their prefix."""
    step: dict[str, Tensor]
    """Scalars that are the same on every rank, with their full names."""


def summarize_updates(updates: Sequence[UpdateStatistics], device: torch.device, reduce: Reduce) -> dict[str, Tensor]:
    """Scalars about all updates of one rollout on all ranks.

    Sums add up, extremes are extremes, means over tokens weigh every token alike. Scalars about f and about the steps
    are averaged with equal weights, since every update and every rank has the same number of prompts; `LATEST` is not.
    """
    summary = summarize_tokens(fold(merge_totals, (update.totals for update in updates)), device, reduce)
    means = {f"preference/{name}": _average(updates, "preference", name) for name in updates[0].preference}
    vector = reduce(torch.stack([value.to(device, torch.float32) for value in means.values()]), "mean")
    summary |= dict(zip(means, vector, strict=True))
    summary |= {name: _average(updates, "step", name) for name in updates[0].step}
    return summary


def _average(updates: Sequence[UpdateStatistics], field: str, name: str) -> Tensor:
    found = (getattr(update, field).get(name) for update in updates)
    values = [value.float() for value in found if value is not None]
    full_name = f"preference/{name}" if field == "preference" else name
    return values[-1] if full_name in LATEST else torch.stack(values).mean()


def merge_totals(totals: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up two sets of sums; names that end in `_min` and `_max` take the extreme."""
    merged = dict(totals)
    for name, value in more.items():
        known = merged.get(name)
        if known is None:
            merged[name] = value
        elif name.endswith("_min"):
            merged[name] = torch.minimum(known, value)
        elif name.endswith("_max"):
            merged[name] = torch.maximum(known, value)
        else:
            merged[name] = known + value
    return merged


def summarize_tokens(totals: dict[str, Tensor], device: torch.device, reduce: Reduce) -> dict[str, Tensor]:
    """Means and sums over all trained tokens, and extremes, over all ranks; a rank may have trained on none.

    `sampler/gap_*` is |log π_old − log π_sampler| before any correction: how far the two engines differ.
    """
    zero = torch.zeros((), device=device)
    names = (*TOKEN_SUMS, *TOKEN_MEANS)
    sums = dict(zip(names, reduce(torch.stack([totals.get(n, zero) for n in names]), "sum"), strict=True))
    num_tokens = sums["num_tokens"].clamp(min=1)
    summary = {title: sums[name] / num_tokens for name, title in TOKEN_MEANS.items()}
    summary |= {title: sums[name] for name, title in TOKEN_SUMS.items()}
    signs = {name: -1.0 if name.endswith("_min") else 1.0 for name in EXTREMES}
    lowest = torch.full_like(zero, -torch.inf)
    extremes = reduce(
        torch.stack([sign * totals[name] if name in totals else lowest for name, sign in signs.items()]), "max"
    )
    for (name, sign), value in zip(signs.items(), extremes, strict=True):
        if torch.isfinite(value):
            summary[EXTREMES[name]] = sign * value
    return summary
