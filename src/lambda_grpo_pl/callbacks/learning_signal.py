"""What tells the user that rollouts teach nothing: without it such a run would just never learn."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import SuiteScores

PATIENCE = 3
"""Rollouts in a row without a signal before a warning: a single one may be chance. After as many in which every verdict
failed, the run ends."""


def measure_signal(batch: RolloutBatch, scores: SuiteScores) -> Tensor:
    """Return [4] float32 whose minimum over ranks `SignalWatch.observe` reads.

    Whether all verdicts failed, whether all groups are flat, the lowest reward, and minus the highest.
    """
    total = batch.scored().total
    flags = [scores.num_failed == len(total), bool(batch.flat_groups().all())]
    return torch.stack([*total.new_tensor([float(flag) for flag in flags]), total.min(), -total.max()])


class SignalWatch:
    """Warns once each when rewards are constant, all groups are flat, or the gradient is 0.

    When all verdicts failed, it warns at once, and ends a run in which that goes on.
    """

    def __init__(self) -> None:
        self._num_failed = self._num_flat = self._num_constant = self._num_without_gradient = 0
        self._constant: float | None = None
        self._warned: set[str] = set()

    def observe(self, signal: Tensor) -> None:
        """Take the signal of a rollout, as `measure_signal` returns it, reduced over ranks by minimum.

        Raises `UserError` if all verdicts of the last rollouts failed.
        """
        failed, flat, lowest, minus_highest = signal.tolist()
        self._num_failed = self._num_failed + 1 if failed else 0
        self._num_flat = self._num_flat + 1 if flat else 0
        constant = lowest if lowest == -minus_highest else None
        self._num_constant = self._num_constant + 1 if constant == self._constant else 1
        self._constant = constant
        if failed:
            self._report_failed()
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
                "rollout.sampling.num_samples or rollout.sampling.temperature. If reward/inactive is near 1, responses "
                "were left out by reward.overlong_filter or reward.on_failure: raise rollout.sampling.max_tokens, or "
                "fix the reward.",
            )

    def observe_gradient(self, norm: float) -> None:
        """Take the norm of the gradient that the rollout just observed led to."""
        without = norm == 0 and not self._num_flat
        self._num_without_gradient = self._num_without_gradient + 1 if without else 0
        if self._num_without_gradient >= PATIENCE:
            self._warn(
                "gradient",
                f"The policy's gradient was 0 in each of the last {PATIENCE} rollouts although rewards differ, so "
                "nothing is learned. Look at policy/clip_low and policy/clip_high (the share of tokens that "
                "model.objective.surrogate clips) and, under LoRA, at model.policy.lora.",
            )

    def _report_failed(self) -> None:
        remedy = (
            "the reward functions crashed or timed out on every response. See their messages above; then fix the "
            "function, or raise reward.pool.timeout_s or reward.pool.memory_gb."
        )
        if self._num_failed >= PATIENCE:
            raise UserError(f"All verdicts of the last {PATIENCE} rollouts failed, so nothing can be learned: {remedy}")
        self._warn("failed", f"All verdicts of a rollout failed, so nothing can be learned: {remedy}")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(message)
