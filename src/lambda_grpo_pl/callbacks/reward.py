"""Scoring: writes `batch.rewards` from the text of prompts and completions, in training and evaluation alike."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L

from lambda_grpo_pl.batch import Prompts, RolloutBatch
from lambda_grpo_pl.callbacks.timing import timed
from lambda_grpo_pl.rewards import PoolConfig, RewardSpec, RewardSuite, SuiteScores
from lambda_grpo_pl.rollout.responses import as_rewards
from lambda_grpo_pl.rollout.scoring import ResponseScoring
from lambda_grpo_pl.sampling import OnGroup


class RewardCallback(L.Callback):
    """Turns responses into rewards by pure functions of text.

    Isolated rewards (`math` is one) judge the groups that have ended while others are still being sampled: whoever
    samples asks for `listen`. A failed verifier is not a wrong answer: both are counted.
    """

    def __init__(
        self,
        functions: list[RewardSpec] | None = None,
        pool: PoolConfig = PoolConfig(),
        on_failure: Literal["zero", "exclude"] = "zero",
        overlong_filter: bool = False,
    ) -> None:
        """Keep the settings; verifier processes start with the first answer that needs one.

        Args:
            functions: Rewards by name or dotted path with weights; the first is the task's and says what is correct.
            pool: Verifier processes: how many, time and memory limits.
            on_failure: What a failed verifier trains as: reward 0, or left out of the loss.
            overlong_filter: Leave truncated responses out of the loss and of their group's statistics (DAPO, §3.4).
        """
        self.pool = pool
        self.suite = RewardSuite(functions or [RewardSpec(name="math")], self.pool, on_failure, overlong_filter)
        self._listening: dict[tuple[str | int, ...], ResponseScoring] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Score the training batch."""
        with timed(pl_module, "score"):
            scores = self.score(trainer, batch, ("train", batch.index))
        self._log(pl_module, batch, scores)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score a batch of questions, unless the evaluation has scored it already."""
        if batch.rewards is None:
            self.score(trainer, batch, ("validation", dataloader_idx, batch_idx))

    on_test_batch_start = on_validation_batch_start

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the verifier processes; they start again when needed."""
        self._listening.clear()
        self.suite.close()

    def listen(self, trainer: L.Trainer, prompts: Prompts, key: tuple[str | int, ...]) -> OnGroup:
        """Return what hears of groups as they end, so that they are judged at once; `key` names the occasion."""
        self._listening[key] = self._scoring(trainer, prompts)
        return self._listening[key].hear

    def score(self, trainer: L.Trainer, batch: RolloutBatch, key: tuple[str | int, ...]) -> SuiteScores:
        """Write `batch.rewards`, and return the verdicts behind them; what was heard under `key` is judged already."""
        completions = batch.sampled()
        scoring = self._listening.pop(key, None) or self._scoring(trainer, batch.prompts)
        _, scores = scoring.finish(completions)
        batch.rewards = as_rewards(scores, completions.ids.device)
        return scores

    def _scoring(self, trainer: L.Trainer, prompts: Prompts) -> ResponseScoring:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return ResponseScoring(self.suite, data.tokenizer, data.stops, prompts)

    def _log(self, pl_module: L.LightningModule, batch: RolloutBatch, scores: SuiteScores) -> None:
        rewards = batch.scored()
        pl_module.log_dict(
            {
                "reward/mean": rewards.total.mean(),
                "reward/std": rewards.total.std(unbiased=False),
                "reward/accuracy": rewards.correct.float().mean(),
                "reward/zero_variance_groups": batch.flat_groups().float().mean(),
                "reward/inactive": 1 - rewards.active.float().mean(),
                "reward/verifier_failed": float(scores.num_failed),
                "reward/no_answer": float(scores.num_no_answer),
                **{f"reward/{name}": part.float().mean() for name, part in rewards.parts.items()},
            },
            sync_dist=True,
        )
