"""What users write about rewards: one item of the list, and the workers that judge."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


@dataclass(kw_only=True)
class PoolConfig:
    """Isolated workers for verifiers that may hang."""

    num_workers: int | None = None
    """Number of worker processes, at most 255. Null: one for each core of this rank, 2 to 8."""
    timeout_s: float = 3.0
    """Seconds one answer may take before its worker is killed and the answer counts as failed."""
    overrun_budget_s: float = 60.0
    """Seconds of all workers together that answers which overrun may cost a batch. Once they are spent, the batch's
    other answers get a tenth of `timeout_s` each."""
    memory_gb: float = 2.0
    """Address space in GiB a worker may take (RLIMIT_AS, Linux); past it the answer counts as failed."""
    recycle_after: int = 20_000
    """Answers after which a worker is replaced by a fresh one."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and not 1 <= self.num_workers <= 255:
            raise UserError(f"reward.pool.num_workers must be in 1..255 or null, got {self.num_workers}.")
        if self.timeout_s <= 0 or self.overrun_budget_s <= 0 or self.memory_gb <= 0 or self.recycle_after < 1:
            raise UserError(
                f"reward.pool: timeout_s, overrun_budget_s, memory_gb and recycle_after must be positive, got {self}."
            )

    @property
    def size(self) -> int:
        """Number of worker processes of this rank, which shares the machine's cores with as many as torchrun says."""
        return self.num_workers or _share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def divide(self, num_ranks: int) -> PoolConfig:
        """Return these settings for one of `num_ranks` ranks of this machine, which share its cores."""
        return replace(self, num_workers=self.num_workers or _share_cores(num_ranks))


def _share_cores(num_ranks: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(8, cores // num_ranks))
