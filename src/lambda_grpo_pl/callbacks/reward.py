"""Scoring: writes `batch.rewards` from the text of prompts and completions."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule, engine
from lambda_grpo_pl.callbacks.learning_signal import SignalWatch, measure_signal
from lambda_grpo_pl.callbacks.timing import timed
from lambda_grpo_pl.rewards import PoolConfig, RewardSpec, RewardSuite, SuiteScores
from lambda_grpo_pl.rollout.run_context import train_key
from lambda_grpo_pl.rollout.scoring import RewardSuites

GRADIENT_NORM = "policy/gradient_norm"


class RewardCallback(L.Callback):
    """Turns responses into rewards by pure functions of text.

    Isolated rewards (such as `math`) judge the groups that have ended while others are still being sampled. A failed
    verifier is not a wrong answer: both are counted. Evaluations are scored by `BenchmarkEvaluation`.

    Attributes:
        suites: The reward functions; the engine scores with them and stops their processes when the run ends.
    """

    def __init__(
        self,
        functions: list[RewardSpec] | None = None,
        pool: PoolConfig = PoolConfig(),
        on_failure: Literal["zero", "exclude"] = "zero",
        overlong_filter: bool = False,
    ) -> None:
        """Build the reward functions; verifier processes start with the first answer that needs one.

        Args:
            functions: Rewards by name or dotted path with weights; the first is the task's and says what is correct. In
                Python, plain functions too. null: the reward math.
            pool: Verifier processes: how many, time and memory limits.
            on_failure: What a failed verifier trains as: reward 0, or left out of the loss.
            overlong_filter: Leave truncated responses out of the loss and of their group's statistics (DAPO, §3.4).
        """
        rewards = [RewardSpec(name="math")] if functions is None else functions
        suite = RewardSuite(rewards, pool, on_failure, overlong_filter)
        self.suites = RewardSuites(suite, pool)
        self._watch = SignalWatch()

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raise `UserError` if `RolloutCallback` does not come first, or for a gold that a reward cannot judge."""
        engine(trainer)
        if isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment):
            # torchrun says in the environment how many ranks there are; SLURM and MPI bind each to cores of its own.
            self.suites.divide(trainer.num_devices)
        if stage == "fit":
            self.suites.training.check_golds((row.where, row.example) for row in datamodule(trainer).read_rows())

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Score the training batch, and warn if it teaches nothing. Raises `UserError` if all verdicts keep failing."""
        with timed(pl_module, "score"):
            scores = engine(trainer).score(batch, train_key(batch.index))
        self._log(pl_module, batch, scores)
        self._watch.observe(trainer.strategy.reduce(measure_signal(batch, scores), reduce_op="min"))

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Warn if the gradient stays 0."""
        if (norm := trainer.callback_metrics.get(GRADIENT_NORM)) is not None:
            self._watch.observe_gradient(float(norm))

    def _log(self, pl_module: L.LightningModule, batch: RolloutBatch, scores: SuiteScores) -> None:
        rewards = batch.scored()
        num_responses = len(rewards.total)
        pl_module.log_dict(
            {
                "reward/mean": rewards.total.mean(),
                "reward/std": rewards.total.std(unbiased=False),
                "reward/accuracy": rewards.correct.float().mean(),
                "reward/zero_variance_groups": batch.flat_groups().float().mean(),
                "reward/inactive": 1 - rewards.active.float().mean(),
                "reward/verifier_failed": scores.num_failed / num_responses,
                "reward/no_answer": scores.num_no_answer / num_responses,
                **{f"reward/{name}": part.float().mean() for name, part in rewards.parts.items()},
            },
            sync_dist=True,
        )
        # This rank's alone: another rank's responses may lack a number that this rank's rewards returned.
        pl_module.log_dict({f"reward/{name}": value for name, value in scores.extras.items()})
