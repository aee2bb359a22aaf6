"""One reward of the configuration's list."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lambda_grpo_pl.errors import UserError


@dataclass(kw_only=True)
class RewardSpec:
    """One reward and its weight in the total."""

    name: str
    """A registered reward (`math`, `format_think`, `overlong`, …) or a dotted path to your own function or class."""
    weight: float = 1.0
    """What its score is multiplied by in the total; 0 logs it without training on it."""
    params: dict[str, Any] = field(default_factory=dict)
    """Its parameters: a class's constructor arguments, or keyword arguments of a function."""
    label: str = ""
    """Its name on the dashboard; by default the last part of `name`."""
    isolated: bool = False
    """Run it in the verifier pool, under its time-out: for your own function that may hang. `math` always does."""
    function: Callable[..., Any] | None = field(default=None, init=False, repr=False)
    """The reward itself where it was given as a function instead of a name."""

    def __post_init__(self) -> None:
        self.label = self.label or self.name.rpartition(".")[2]
        if not math.isfinite(self.weight):
            raise UserError(f"reward.functions: the weight of {self.name!r} must be finite, got {self.weight}.")

    @classmethod
    def from_function(cls, function: Callable[..., Any], weight: float = 1.0) -> RewardSpec:
        """Return the spec of a plain function or a callable object."""
        if not callable(function):
            raise UserError(
                f"reward.functions: {function!r} is not a reward: give a RewardSpec, or a function that takes "
                "(completion, example)."
            )
        label = getattr(function, "__name__", type(function).__name__)
        spec = cls(name=f"{getattr(function, '__module__', '')}.{label}", weight=weight, label=label)
        spec.function = function
        return spec
