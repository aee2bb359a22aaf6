"""The killable pool (in-process for now)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(kw_only=True)
class PoolConfig:
    """Isolated workers for verifiers that may hang."""

    num_workers: int = 2
    """Number of worker processes."""
    timeout_s: float = 3.0
    """Seconds one answer may take before its worker is killed and the answer counts as failed."""
    memory_gb: float = 2.0
    """Address space in GiB a worker may take (RLIMIT_AS); past it the answer fails."""
    recycle_after: int = 20_000
    """Answers after which a worker is replaced by a fresh one."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.timeout_s <= 0 or self.memory_gb <= 0 or self.recycle_after < 1:
            raise ValueError(f"Pool settings must be positive, got {self}.")


class Call(NamedTuple):
    """One call of the pool's function number `function`."""

    function: int
    args: tuple[Any, ...]


class VerifierPool:
    """Run calls in order."""

    def __init__(self, config: PoolConfig, functions: Sequence[Callable[..., Any]]) -> None:
        self.config, self.functions = config, functions

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order; None for a call that failed."""
        return [self.functions[call.function](*call.args) for call in calls]

    def close(self) -> None:
        """Stop the workers."""
