"""Evaluation: benchmarks with sampling settings and rewards of their own, scored by the functions that train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table

from lambda_grpo_pl.batch import Completions, RolloutBatch
from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback
from lambda_grpo_pl.evaluation.metrics import BenchmarkScores
from lambda_grpo_pl.evaluation.table import QuestionScores
from lambda_grpo_pl.rewards import RewardSpec, RewardSuite, SuiteScores
from lambda_grpo_pl.sampling import SamplingSettings
from lambda_grpo_pl.tasks.benchmarks import BENCHMARKS

HEADLINE = ("accuracy", "score", "length/mean", "truncated", "no_answer", "verifier_failed")


@dataclass(kw_only=True)
class EvaluationSettings:
    """How every benchmark is sampled; null leaves the benchmark's own setting."""

    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    """Nucleus of the sampling distribution."""
    num_samples: int | None = None
    """Responses per question, n."""
    max_tokens: int | None = None
    """Response tokens after which a response is cut."""

    def apply(self, settings: SamplingSettings) -> SamplingSettings:
        """`settings` with what is set here."""
        return replace(settings, **{name: value for name, value in vars(self).items() if value is not None})


class BenchmarkEvaluation(L.Callback):
    """Scores each validation set and logs `val/<set>/<measure>`, and `val/average` for choosing the best checkpoint.

    A set that is a registered benchmark brings its own sampling settings and reward; any other set is sampled greedily, at the
    training limit, and scored by the training rewards. Questions, not responses, are what intervals are over.

    Attributes:
        history: (update, {set: {measure: value}}) of every evaluation so far; update 0 is the base model.
    """

    def __init__(
        self,
        overrides: EvaluationSettings = EvaluationSettings(),
        average_over: list[str] | None = None,
        confidence: float = 0.95,
        to_terminal: bool = True,
    ) -> None:
        """Keep the settings.

        Args:
            overrides: Sampling settings that replace the sets' own.
            average_over: Sets in `val/average`; null averages all.
            confidence: Coverage of the bootstrap intervals; 0 leaves them out.
            to_terminal: Print the table after every evaluation.
        """
        self.overrides = overrides
        self.average_over = average_over
        self.confidence = confidence
        self.to_terminal = to_terminal
        self.history: list[tuple[int, dict[str, dict[str, float]]]] = []
        self._suites: dict[str, RewardSuite] = {}
        self._scores: dict[str, BenchmarkScores] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with empty tables."""
        names: list[str] = trainer.datamodule.val_names  # type: ignore[attr-defined]
        self._scores = {
            name: BenchmarkScores(self.settings(trainer, name).num_samples, confidence=self.confidence)
            for name in names
        }

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample and score a batch of questions as its set asks, and take it into the set's table."""
        name = trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        rollout = find_callback(trainer, RolloutCallback)
        rollout.synchronise(trainer, pl_module)
        key = ("evaluation", name, batch_idx)
        batch.completions = rollout.sample(trainer, pl_module, batch.prompts, self.settings(trainer, name), key)
        verdicts = find_callback(trainer, RewardCallback).score(trainer, batch, self._suite(trainer, name))
        self._scores[name].update(question_scores(batch, verdicts))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log every measure and the average, and print the table."""
        tables = {
            name: {measure: float(value) for measure, value in scores.compute().items()}
            for name, scores in self._scores.items()
        }
        self.history.append((trainer.global_step, tables))
        if not trainer.sanity_checking:
            metrics = {
                f"val/{name}/{measure}": value for name, table in tables.items() for measure, value in table.items()
            }
            chosen = [tables[name]["accuracy"] for name in self.average_over or tables]
            metrics["val/average"] = sum(chosen) / len(chosen)
            # The same on every rank, so that averaging over ranks changes nothing (and Lightning does not warn).
            pl_module.log_dict({name: value for name, value in metrics.items() if value == value}, sync_dist=True)
        if self.to_terminal and trainer.is_global_zero:
            Console().print(self.table(trainer))

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def settings(self, trainer: L.Trainer, name: str) -> SamplingSettings:
        """How the set `name` is sampled."""
        if name not in BENCHMARKS:
            limit = find_callback(trainer, RolloutCallback).sampling.max_tokens
            return self.overrides.apply(SamplingSettings(temperature=0.0, max_tokens=limit))
        entry = BENCHMARKS[name]
        own = SamplingSettings(
            temperature=entry.temperature, top_p=entry.top_p, num_samples=entry.num_samples, max_tokens=entry.max_tokens
        )
        return self.overrides.apply(own)

    def table(self, trainer: L.Trainer) -> Table:
        """The latest evaluation, a row a set, with the sampling settings it was made with."""
        update, tables = self.history[-1]
        when = "base model" if update == 0 else f"after {update} updates"
        table = Table("set", "questions", *HEADLINE, "sampling", title=f"evaluation, {when}")
        for name, measures in tables.items():
            settings = self.settings(trainer, name)
            how = f"T={settings.temperature:g} top_p={settings.top_p:g} n={settings.num_samples} ≤{settings.max_tokens}"
            cells = [f"{measures[column]:.3f}" for column in HEADLINE]
            if self.confidence:
                cells[0] += f" [{measures['accuracy_low']:.3f}, {measures['accuracy_high']:.3f}]"
            table.add_row(name, f"{measures['num_questions']:.0f}", *cells, how)
        return table

    def _suite(self, trainer: L.Trainer, name: str) -> RewardSuite:
        reward = find_callback(trainer, RewardCallback)
        if name not in BENCHMARKS:
            return reward.suite
        if name not in self._suites:
            entry = BENCHMARKS[name]
            self._suites[name] = RewardSuite([RewardSpec(name=entry.reward, params=entry.reward_params)], reward.pool)
        return self._suites[name]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the benchmarks' verifier processes."""
        for suite in self._suites.values():
            suite.close()
        self._suites.clear()

    def state_dict(self) -> dict[str, Any]:
        """The evaluations so far belong to the run."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history."""
        self.history = state_dict["history"]


def question_scores(batch: RolloutBatch, scores: SuiteScores) -> list[QuestionScores]:
    """What the n responses to each question of a scored batch earned."""
    completions: Completions = batch.require("completions")
    lengths, truncated, n = completions.lengths.tolist(), completions.truncated.tolist(), batch.group_size
    questions = []
    for number, example in enumerate(batch.prompts.examples):
        rows = slice(number * n, (number + 1) * n)
        verdicts = scores.verdicts[rows]
        questions.append(
            QuestionScores(
                index=int(example["index"]),
                correct=[verdict.correct for verdict in verdicts],
                scores=scores.totals[rows],
                extracted=[verdict.extracted for verdict in verdicts],
                lengths=lengths[rows],
                truncated=truncated[rows],
                status=[verdict.status for verdict in verdicts],
            )
        )
    return questions
