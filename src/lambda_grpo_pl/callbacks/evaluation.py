"""Evaluation: benchmarks with their own sampling settings and rewards, scored by the functions that train.

These are the hooks; records, measures and tables are in `evaluation/`. Every response is recorded in
`<default_root_dir>/evaluation/step-<updates>`, and questions found there are not sampled again: an evaluation whose
engine died continues where it stopped, and `test` after `validate` only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from torch import nn
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.checkpoint import DUE, METHOD
from lambda_grpo_pl.callbacks.context import datamodule, engine, trained
from lambda_grpo_pl.callbacks.evaluation_settings import EvaluationSettings, SetPlan, plan_set
from lambda_grpo_pl.callbacks.lengths import check_lengths
from lambda_grpo_pl.callbacks.question_records import empty_slots, question_records, select_unanswered
from lambda_grpo_pl.data.benchmarks import BENCHMARKS
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.collection import BenchmarkScores
from lambda_grpo_pl.evaluation.progress import ResumableSet, set_aside_other_weights, weights_digest
from lambda_grpo_pl.evaluation.report import BenchmarkResult, RunInfo, compute_average, scores_table, write_tables
from lambda_grpo_pl.rollout.responses import as_rewards
from lambda_grpo_pl.sampling import engine_settings


class BenchmarkEvaluation(L.Callback):
    """Scores each validation set, records every response, and logs `val/<set>/<measure>` and `val/average`.

    A set that is a registered benchmark brings its own sampling settings and reward; any other set is sampled greedily,
    at the training limit, and scored by the training rewards. Confidence intervals are over questions, not responses.
    Lightning's `trainer.val_check_interval` says how often; `num_sanity_val_steps: -1` evaluates the base model first.

    Attributes:
        history: (update, {set: {measure: value}}) of every evaluation so far; update 0 is the base model.
    """

    def __init__(
        self,
        overrides: EvaluationSettings = EvaluationSettings(),
        benchmarks: dict[str, EvaluationSettings] | None = None,
        average_over: list[str] | None = None,
        method: str | None = None,
        to_terminal: bool = True,
    ) -> None:
        """Keep the settings.

        Args:
            overrides: Sampling settings that replace every set's own.
            benchmarks: Sampling settings of single sets, by name; they win over `overrides`.
            average_over: Sets in `val/average`; null averages all.
            method: What tables call the method; null: `base` before the first update, then the preference's name.
            to_terminal: Print the table after every evaluation.
        """
        self.overrides = overrides
        self.benchmarks = benchmarks or {}
        self.average_over = average_over
        self.method = method
        self.to_terminal = to_terminal
        self.history: list[tuple[int, dict[str, dict[str, float]]]] = []
        self._is_due = False
        self._loaded_step = 0
        self._loaded_method: str | None = None
        self._plans: dict[str, SetPlan] = {}
        self._sets: dict[str, ResumableSet] = {}
        self._scores: dict[str, BenchmarkScores] = {}

    # ------------------------------------------------------------------------------------------------ hooks

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse an evaluation that cannot work, before a model is loaded. Raises `UserError`."""
        data, rollouts = datamodule(trainer), engine(trainer)
        names = data.val_names
        if not names and stage != "fit":
            raise UserError("data.val is empty, so there is nothing to evaluate: set it to a file or a benchmark.")
        unknown = self.benchmarks.keys() - BENCHMARKS.keys() | set(self.average_over or ())
        if unknown := unknown - set(names):
            raise UserError(
                f"Unknown validation set {', '.join(sorted(unknown))} in evaluation.benchmarks or "
                f"evaluation.average_over; available: {', '.join(names)}."
            )
        rewards = rollouts.suites.training.specs
        settings = engine_settings(rollouts.sampler.name, rollouts.sampler.vllm)
        for source in data.val_sources:
            overrides = [self.overrides, self.benchmarks.get(source.name, EvaluationSettings())]
            plan = plan_set(source, overrides, rollouts.sampling, rewards, rollouts.run.seed)
            key = f"evaluation.benchmarks.{source.name}.max_tokens"
            needed = check_lengths(data, source.name, plan.sampling.max_tokens, settings, key)
            rollouts.sampler.reserve_context(needed)
            if not plan.rewards:
                rollouts.suites.training.check_golds((row.where, row.example) for row in data.read_rows(source.name))
            self._plans[source.name] = plan

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for answers that an earlier evaluation of these weights recorded, and start with empty tables."""
        module = trained(pl_module)
        policy = f"step {self._step(trainer)}, weights {weights_digest(cast(nn.Module, module.policy))}"
        answered_by = {"policy": policy, **engine(trainer).sampler.describe(module.policy)._asdict()}
        folder = self._folder(trainer)
        self._sets = {
            name: ResumableSet(folder, replace(plan.setup, **answered_by), [row.example for row in loader.rows])
            for (name, plan), loader in zip(self._plans.items(), datamodule(trainer).val_dataloader(), strict=True)
        }
        if trainer.is_global_zero:
            moved = set_aside_other_weights(folder, policy)
            moved += filter(None, [each.set_aside() for each in self._sets.values()])
            for home in moved:
                rank_zero_info(f"Answers from other weights or settings were moved to {home}.")
        for each in self._sets.values():
            each.read_found()  # collective: rank 0 reads and tells the others
        self._scores = {name: BenchmarkScores(plan.sampling.num_samples) for name, plan in self._plans.items()}
        if not all(each.complete for each in self._sets.values()):  # the same on every rank: a sync is collective
            engine(trainer).sync(module.policy, trainer.global_step)

    @override
    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample and score the questions of a batch that have no answer yet, and add all to the set's table."""
        name, plan = list(self._plans.items())[dataloader_idx]
        known = self._sets[name].found
        examples = batch.prompts.examples
        self._scores[name].update(
            [known[example["id"]].question_scores() for example in examples if example["id"] in known]
        )
        batch.prompts = select_unanswered(batch.prompts, known)
        if not batch.prompts.examples:
            batch.completions, batch.rewards = empty_slots(batch.prompts)
            return
        key = ("evaluation", name, batch_idx)
        scored = engine(trainer).answer(batch.prompts, key, plan.sampling, plan.setup.stop, plan.rewards)
        batch.completions, batch.rewards = scored.completions, as_rewards(scored.scores, scored.completions.ids.device)
        records = question_records(batch.prompts, scored, plan.sampling.num_samples)
        self._sets[name].add(records, trainer.global_rank)
        self._scores[name].update([record.question_scores() for record in records])

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log every measure and the average, write the tables, and print them."""
        results = [
            BenchmarkResult(settings=self._sets[name].setup, measures=scores.compute())
            for name, scores in self._scores.items()
        ]
        for result in results:
            if result.measures["verifier_failed"] == 1:
                rank_zero_warn(
                    f"All verdicts on {result.settings.benchmark} failed, so its scores say nothing: the reward "
                    "function crashed or timed out on every response. See its messages above; then fix the function, "
                    "or raise reward.pool.timeout_s or reward.pool.memory_gb."
                )
        trainer.strategy.barrier()
        self._is_due = False
        average = compute_average(results, self.average_over)
        self.history.append((self._step(trainer), {each.settings.benchmark: each.measures for each in results}))
        self._log(trainer, pl_module, results, average)
        if trainer.is_global_zero:
            for each in self._sets.values():
                each.merge()
            run = self._run_info(trainer, pl_module)
            text = write_tables(self._folder(trainer), run, results, self.average_over)
            if self.to_terminal and trainer.state.fn == TrainerFn.FITTING:
                Console().print(scores_table(run, results, self.average_over))
            elif self.to_terminal:
                print(text)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how many updates the weights have seen: outside a fit the trainer does not count."""
        self._is_due = bool(checkpoint.get(DUE)) and trainer.state.fn == TrainerFn.FITTING
        self._loaded_step = checkpoint["global_step"]
        self._loaded_method = checkpoint.get(METHOD)

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for the evaluation after the last update, which a resumed run with nothing left to train skips."""
        if self._is_due:
            trainer.validating = True  # as Lightning's training loop does
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    @override
    def state_dict(self) -> dict[str, Any]:
        """The evaluations so far belong to the run."""
        return {"history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history."""
        self.history = state_dict["history"]

    # ------------------------------------------------------------------------------------------------ parts

    def _log(
        self, trainer: L.Trainer, pl_module: L.LightningModule, results: Sequence[BenchmarkResult], average: float
    ) -> None:
        stage = "test" if trainer.testing else "val"
        metrics = {
            f"{stage}/{result.settings.benchmark}/{measure}": value
            for result in results
            for measure, value in result.measures.items()
            if value == value
        }
        metrics[f"{stage}/average"] = average
        if not trainer.sanity_checking:
            # The same on every rank, so that averaging changes nothing.
            pl_module.log_dict(metrics, sync_dist=True)
        elif trainer.num_sanity_val_steps == float("inf"):
            for logger in trainer.loggers:  # Lightning drops metrics logged before training: the base model's row
                logger.log_metrics(metrics, step=0)

    def _step(self, trainer: L.Trainer) -> int:
        return trainer.global_step if trainer.state.fn == TrainerFn.FITTING else self._loaded_step

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "evaluation" / f"step-{self._step(trainer):06d}"

    def _run_info(self, trainer: L.Trainer, pl_module: L.LightningModule) -> RunInfo:
        step, module = self._step(trainer), trained(pl_module)
        method = self.method or ((self._loaded_method or module.method_name) if step else "base")
        seed = None if method == "base" else engine(trainer).run.seed
        return RunInfo(model=str(module.policy_config.path).rstrip("/"), method=method, seed=seed, step=step)
