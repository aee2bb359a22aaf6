"""Warnings when rollouts teach nothing: no error occurs, the run just never learns."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.rewards import SuiteScores

PATIENCE = 3
"""Rollouts in a row without a signal before a warning: a single one may be chance."""


def measure_signal(batch: RolloutBatch, scores: SuiteScores) -> Tensor:
    """Return [4] float32 whose minimum over ranks `SignalWatch.observe` reads.

    Whether all verdicts failed, whether all groups are flat, the lowest reward, and minus the highest.
    """
    total = batch.scored().total
    flags = [scores.num_failed == len(total), bool(batch.flat_groups().all())]
    return torch.stack([*total.new_tensor([float(flag) for flag in flags]), total.min(), -total.max()])


class SignalWatch:
    """Warns once each when all verdicts failed, when rewards are constant and when all groups are flat."""

    def __init__(self) -> None:
        self._num_flat = self._num_constant = 0
        self._constant: float | None = None
        self._warned: set[str] = set()

    def observe(self, signal: Tensor) -> None:
        """Take the signal of a rollout, as `measure_signal` returns it, reduced over ranks by minimum."""
        failed, flat, lowest, minus_highest = signal.tolist()
        self._num_flat = self._num_flat + 1 if flat else 0
        constant = lowest if lowest == -minus_highest else None
        self._num_constant = self._num_constant + 1 if constant == self._constant else 1
        self._constant = constant
        if failed:
            self._warn(
                "failed",
                "All verdicts of a rollout failed, so nothing can be learned: the reward functions crashed or timed "
                "out on every response. See their messages above; then fix the function, or raise "
                "reward.pool.timeout_s or reward.pool.memory_gb.",
            )
        elif constant is not None and self._num_constant >= PATIENCE:
            self._warn(
                "constant",
                f"All rewards of the last {PATIENCE} rollouts are {constant:g}, so nothing is learned. Look at the "
                "responses (table.every: 1). If they deserve other rewards, fix reward.functions. Otherwise the "
                "prompts are too easy or too hard for this policy (change data.train), or it does not know their "
                "template (change data.train.template).",
            )
        elif self._num_flat >= PATIENCE:
            self._warn(
                "flat",
                f"In each of the last {PATIENCE} rollouts, every group's responses earned equal rewards, so nothing "
                "is learned: the prompts are too easy or too hard for this policy. Change data.train, or raise "
                "rollout.sampling.num_samples or rollout.sampling.temperature.",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(message)
