"""The methods that the lab compares, each as settings of the package's objective."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import AdvantageConfig, CorrelationConfig, PreferenceConfig, SurrogateConfig

Rule = Literal["fixed", "surrogate", "validation", "correlation"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method in the simulator."""

    label: str
    """What tables and plots call it."""
    preference: PreferenceConfig
    """f, λ's start and its learning rate; `learn` is set to fixed where `rule` is correlation."""
    rule: Rule = "fixed"
    """How λ moves."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """How rewards become advantages."""
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """Clip and level of the ratio; they matter only with several updates per rollout."""
    token_count: Literal["global", "group"] = "global"
    """What Z counts."""
    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)
    """The correlation rule's settings."""
    length_price: float = 0.0
    """c of the reward R − c · tokens / limit."""
    relative_price: float = 0.0
    """α of the reward R / (1 + α · tokens / the group's mean), as in GR3 (2603.10535)."""
    heldout_price: float = 0.0
    """c of the held-out reward that the validation rule ascends, R − c · tokens / limit."""
    placebo: bool = False
    """Whether λ follows the path that the rule took in another seed's run."""


def _fixed(family: str, label: str, lam: float = 0.0, alpha: float = 0.75) -> Arm:
    return Arm(label=label, preference=PreferenceConfig(family=family, learn="fixed", init=lam, alpha=alpha))


def _surrogate(family: str, label: str, lr: float, token_count: Literal["global", "group"] = "global") -> Arm:
    preference = PreferenceConfig(family=family, learn="surrogate", lr=lr)
    return Arm(label=label, preference=preference, rule="surrogate", token_count=token_count)


def batch_power(lam: float, label: str | None = None) -> Arm:
    """Return the arm whose weights are ℓ^λ, normalized over the batch, with a fixed λ."""
    return _fixed("batch_power", label or f"ℓ^{lam:g} over the batch", lam)


CORRELATION = replace(batch_power(0.0, "λ by correlation"), rule="correlation")


def balanced_power(balance: float, label: str, low: float = -1.0) -> Arm:
    """Return the arm whose λ follows the correlation in the family balanced_power, down to `low`."""
    preference = PreferenceConfig(family="balanced_power", learn="fixed", balance=balance)
    return Arm(label=label, preference=preference, rule="correlation", correlation=CorrelationConfig(low=low))


ARMS: dict[str, Arm] = {
    "dapo": _fixed("uniform", "DAPO (token mean)"),
    "dapo_again": _fixed("uniform", "DAPO, tuned again"),
    "grpo": replace(_fixed("grpo", "GRPO"), token_count="group"),
    "dr_grpo": replace(_fixed("dr_grpo", "Dr. GRPO"), advantage=AdvantageConfig(scale="none")),
    "dr_grpo_std": _fixed("dr_grpo", "Dr. GRPO's constant, advantages with the std"),
    "prompt_mean": replace(_fixed("uniform", "prompt mean"), token_count="group"),
    "delta_l_075": _fixed("delta_l", "ΔL, α 0.75"),
    "delta_l_1": _fixed("delta_l", "ΔL, α 1", alpha=1.0),
    "balanced": _fixed("balanced", "Balanced Aggregation"),
    "power_-1.5": batch_power(-1.5),
    "power_-1": batch_power(-1.0),
    "power_-0.5": batch_power(-0.5),
    "power_+0.5": batch_power(0.5),
    "lambda": _surrogate("power_softmax", "λ-GRPO (paper)", 0.1, "group"),
    "lambda_lr1": _surrogate("power_softmax", "λ-GRPO, λ's rate 1", 1.0, "group"),
    "lambda_lr10": _surrogate("power_softmax", "λ-GRPO, λ's rate 10", 10.0, "group"),
    "linear": _surrogate("linear", "λ linear, rate 1", 1.0),
    "relative_power": _surrogate("relative_power", "relative power, surrogate, rate 1", 1.0),
    "contextual": Arm(
        label="λ contextual, rate 1",
        preference=PreferenceConfig(family="power_softmax", contextual=True, lr=1.0),
        rule="surrogate",
    ),
    "validation": Arm(
        label="relative power, validation",
        preference=PreferenceConfig(family="relative_power", learn="validation", lr=1.0),
        rule="validation",
    ),
    "correlation": CORRELATION,
    "balanced_correlation": balanced_power(0.5, "λ by correlation, balanced"),
    "balanced_correlation_075": balanced_power(0.5, "λ by correlation, balanced, λ ≥ −0.75", low=-0.75),
    "signs_correlation": balanced_power(1.0, "λ by correlation, signs alone"),
    "placebo": replace(CORRELATION, label="λ of another seed (placebo)", placebo=True),
}
"""Every method by name."""


def find_arm(name: str) -> Arm:
    """Return the method called `name`. Raises `UserError` for another name."""
    if name not in ARMS:
        raise UserError(f"There is no method {name!r} in the simulator: choose from {', '.join(ARMS)}.")
    return ARMS[name]
