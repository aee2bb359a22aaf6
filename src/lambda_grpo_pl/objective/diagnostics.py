"""What a dashboard shows about the length preference."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo_pl.objective.group_lengths import GroupLengths
from lambda_grpo_pl.objective.group_math import group_mean, group_size, widen
from lambda_grpo_pl.objective.preference import LengthPreference, effective_sample_size
from lambda_grpo_pl.objective.token_count import TokenCount

TERCILES = ("short", "middle", "long")


@torch.no_grad()
def preference_statistics(
    preference: LengthPreference,
    weights: Tensor,
    lengths: Tensor,
    advantages: Tensor,
    correct: Tensor,
    count: TokenCount,
    active: Tensor | None = None,
    features: Tensor | None = None,
) -> dict[str, Tensor]:
    """Scalars about f on this rank, each a mean or a share that may be averaged over ranks; none is ever NaN.

    * `f_min`, `f_max`, `ess`: a group's smallest and largest f, and (Σf)²/Σf² as a share of its responses, averaged;
    * `floored`: share of responses whose h (or 1 + λ r z) was lifted to the floor;
    * `length_advantage_corr`: correlation of length (minus its group's mean) and advantage, what drives λ on-policy;
    * `weight_short`, `weight_middle`, `weight_long`: share of Σ|f A| ℓ / Z held by each third of responses by length;
    * `length_correct`, `length_incorrect`: mean tokens; the mean over all responses where there is none of the kind;
    * `correlation`: its moving average, under the correlation rule;
    * `lambda`, `at_bound`; `grpo_lambda`: the λ at which this batch's f would equal GRPO's to first order.

    Shapes: weights f, lengths, advantages, correct (bool), active (bool) [B, G]; features [B, K].
    """
    group = GroupLengths.of(lengths, count.mean_length, active)
    mask, tokens = group.active, group.lengths
    num_responses = widen(mask.sum()).clamp(min=1)
    weights, advantages = widen(weights), widen(advantages)
    lam = preference.effective_lambda(features)
    statistics = {
        **_spread(weights, mask),
        **_tercile_shares((weights * advantages).abs() * tokens / count.denominator, tokens, mask),
        **_lengths_by_outcome(tokens, correct, mask),
        "length_advantage_corr": _correlation(tokens, advantages, mask),
        "lambda": lam.mean(),
        "at_bound": widen((lam.float().abs() >= preference.config.bound).any()),  # λ is float32: 0.01 is a bit less
    }
    family, config = preference.family, preference.config
    if config.learn == "correlation":
        statistics["correlation"] = preference.correlation.value
    if family.floored is not None:
        statistics["floored"] = family.floored(group, lam, config).sum() / num_responses
    if family.grpo_lambda is not None:
        statistics["grpo_lambda"] = _mean_over_groups(family.grpo_lambda(group, config), mask)
    return statistics


def _mean_over_groups(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B, 1] over the groups that have an active response."""
    lively = mask.any(-1, keepdim=True)
    return (values * lively).sum() / lively.sum().clamp(min=1)


def _spread(weights: Tensor, mask: Tensor) -> dict[str, Tensor]:
    smallest = torch.where(mask, weights, torch.inf).amin(-1, keepdim=True).nan_to_num()
    return {
        "f_min": _mean_over_groups(smallest, mask),
        "f_max": _mean_over_groups(weights.amax(-1, keepdim=True), mask),
        "ess": _mean_over_groups(effective_sample_size(weights) / group_size(mask), mask),
    }


def _tercile_shares(influence: Tensor, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    ordered = influence[mask][tokens[mask].argsort(stable=True)]
    total = ordered.sum().clamp(min=1e-30)
    thirds = torch.tensor_split(ordered, 3)
    return {f"weight_{name}": third.sum() / total for name, third in zip(TERCILES, thirds, strict=True)}


def _lengths_by_outcome(tokens: Tensor, correct: Tensor, mask: Tensor) -> dict[str, Tensor]:
    overall = (tokens * mask).sum() / mask.sum().clamp(min=1)

    def mean_length(chosen: Tensor) -> Tensor:
        return torch.where(chosen.any(), (tokens * chosen).sum() / chosen.sum(), overall)

    return {"length_correct": mean_length(correct & mask), "length_incorrect": mean_length(~correct & mask)}


def _correlation(tokens: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    longer = (tokens - group_mean(tokens, mask)) * mask
    better = (advantages - group_mean(advantages, mask)) * mask
    scale = (longer.square().sum() * better.square().sum()).sqrt()
    return torch.where(scale > 0, (longer * better).sum() / scale, 0.0)
