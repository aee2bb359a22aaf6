"""The lens: what other length preferences would do with the responses of this update.

J = Σ w_i S_i, w_i = f_i / Z_i, is linear in w, and w depends on lengths (and signs of A) alone. So one update's lengths
ℓ and advantages A give, for every method at once and without a pass through the model,

* `weight_short`, `weight_long`: the share of Σ |w A| ℓ held by the shortest and the longest third of the responses;
* `prefix_bias`: Σ w A / Σ |w A|, the net push on tokens that all responses of a group begin with; 0 for equal weights,
  not 0 for any other preference (2601.05002);
* `sign_balance`: (P − N)/(P + N), P and N the parts of Σ w |A| ℓ with positive and negative A: which sign has more
  weight. 0 for GRPO; the sign–length coupling of a token mean (2605.04077).

With the inner products T_i = ⟨∇J_held-out, ∇S_i⟩, which the validation rule takes, also

* `gain`: Σ w T / Σ w |A| ℓ, the slope of the held-out objective along the method's step, per unit of total weight.
  `gain_low` and `gain_high` bound it by a 95 % interval over training prompts. A step of equal total weight still is
  the longer the fewer responses hold the weight, so the order of gains is not that of whole runs (docs/evidence.md).

Every quantity is a ratio, so the scale of w does not matter, and the sums of `lens_sums` add up over the parts of an
update, such as ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.families import FAMILIES, FamilyConfig
from lambda_grpo_pl.objective.group_lengths import GroupLengths
from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, widen
from lambda_grpo_pl.objective.preference_config import LARGEST_BOUND

OWN = "own"
"""The name of the weights that the run trains with."""
SUMS = ("short", "long", "weight", "signed_weight", "push", "absolute_push")
"""Columns of `lens_sums`."""
GAIN_SUMS = ("gain", "gain_squares", "gain_weight", "gain_weight_squares", "gain_products", "gain_prompts")
"""Further columns where there are held-out prompts."""
INTERVAL = 1.959964
"""Standard errors on either side of a 95 % interval."""


class LensMethod(NamedTuple):
    """Weights that the lens looks through."""

    family: str
    lam: float = 0.0
    per_prompt: bool = False
    """Whether every prompt has the same total weight, instead of every token."""


METHODS: dict[str, LensMethod] = {
    "grpo": LensMethod("grpo"),
    "dapo": LensMethod("uniform"),
    "prompt_mean": LensMethod("uniform", per_prompt=True),
    "delta_l": LensMethod("delta_l"),
    "balanced": LensMethod("balanced"),
}
"""Method by name. Dr. GRPO and LUSPO weigh like dapo and GSPO like grpo: the scale of the weights does not matter."""


@dataclass(kw_only=True)
class LensConfig:
    """Which other length preferences a run is looked at with; none of them trains."""

    methods: Sequence[str] = ("grpo", "dapo", "delta_l", "balanced", "power_0.5")
    """Names of METHODS (grpo, dapo, prompt_mean, delta_l, balanced), or power_<λ> for weights ∝ length^λ. The run's own
    weights are shown beside them as `own`. An empty list switches the lens off."""

    def __post_init__(self) -> None:
        for name in self.methods:
            find_method(name)

    @property
    def is_on(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.methods)


def find_method(name: str) -> LensMethod:
    """Return the method of a name. Raises `UserError` for a name without one."""
    if name in METHODS:
        return METHODS[name]
    prefix, _, exponent = name.partition("_")
    try:
        lam = float(exponent) if prefix == "power" else math.nan
    except ValueError:
        lam = math.nan
    if abs(lam) <= LARGEST_BOUND:
        return LensMethod("batch_power", lam)
    raise UserError(
        f"model.lens.methods names {name!r}: choose {', '.join(METHODS)}, or power_ and an exponent from "
        f"−{LARGEST_BOUND} to {LARGEST_BOUND}, such as power_-0.5."
    )


def lens_weights(method: LensMethod, lengths: Tensor, advantages: Tensor, active: Tensor | None = None) -> Tensor:
    """Return w up to one factor for the whole update, [B, G] each → [B, G] float64. Nothing is added up over ranks."""
    mask = active_mask(lengths, active)
    tokens = widen(lengths)
    mean_length = group_mean(tokens, mask) if method.per_prompt else torch.ones_like(tokens[:1, :1])
    group = GroupLengths.of(lengths, mean_length, mask, advantages, torch.ones_like)
    lam = tokens.new_tensor(method.lam)
    weights = FAMILIES[method.family].weights(group, lam, FamilyConfig(family=method.family))
    return weights / (mean_length * group_size(mask)).clamp(min=1) if method.per_prompt else weights


@torch.no_grad()
def lens_sums(
    config: LensConfig,
    own: Tensor,
    lengths: Tensor,
    advantages: Tensor,
    active: Tensor | None = None,
    alignments: Tensor | None = None,
) -> Tensor:
    """What this rank's part of an update adds to each method's sums.

    Shapes: own (f / Z of the run), lengths, advantages, active and alignments (T_i; None without held-out prompts)
    [B, G] → [1 + number of methods, number of sums] float64, own weights first: `SUMS`, and `GAIN_SUMS` if there are
    alignments. Terciles are those of this part.
    """
    mask = active_mask(lengths, active)
    others = [lens_weights(find_method(name), lengths, advantages, mask) for name in config.methods]
    weights = torch.stack([widen(own), *others]) * mask
    tokens, advantages = widen(lengths), widen(advantages) * mask
    push = weights * advantages
    signed = push * tokens
    total = signed.abs()
    order = tokens[mask].argsort(stable=True)
    short, _, long = torch.tensor_split(total[:, mask][:, order], 3, dim=1)
    sums = [short.sum(1), long.sum(1), *(values.sum((1, 2)) for values in (total, signed, push, push.abs()))]
    if alignments is not None:
        gains, size = (weights * widen(alignments)).sum(2), total.sum(2)
        sums += [gains.sum(1), gains.square().sum(1), size.sum(1), size.square().sum(1), (gains * size).sum(1)]
        sums.append(widen(mask.any(-1).sum()).expand(len(weights)))
    return torch.stack(sums, dim=1)


def lens_values(config: LensConfig, sums: Tensor) -> dict[str, Tensor]:
    """Read the quantities from sums over the whole update: `<method>/<quantity>` → []; none is ever NaN."""
    values: dict[str, Tensor] = {}
    for name, row in zip((OWN, *config.methods), sums, strict=True):
        column = dict(zip(SUMS + GAIN_SUMS, row.unbind(), strict=False))
        found = {
            "weight_short": _ratio(column["short"], column["weight"]),
            "weight_long": _ratio(column["long"], column["weight"]),
            "prefix_bias": _ratio(column["push"], column["absolute_push"]),
            "sign_balance": _ratio(column["signed_weight"], column["weight"]),
        }
        if "gain" in column:
            found |= _gain(column)
        values |= {f"{name}/{quantity}": value for quantity, value in found.items()}
    return values


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)


def _gain(column: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ratio of two sums over prompts, with its standard error from the residuals n_g − gain · d_g."""
    gain = _ratio(column["gain"], column["gain_weight"])
    residuals = column["gain_squares"] - 2 * gain * column["gain_products"] + gain**2 * column["gain_weight_squares"]
    num_prompts = column["gain_prompts"]
    spread = (residuals.clamp(min=0) * num_prompts / (num_prompts - 1).clamp(min=1)).sqrt()
    margin = INTERVAL * _ratio(spread, column["gain_weight"])
    return {"gain": gain, "gain_low": gain - margin, "gain_high": gain + margin}
