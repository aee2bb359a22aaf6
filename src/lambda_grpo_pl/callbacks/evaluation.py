"""Evaluation: benchmarks with sampling settings and rewards of their own, scored by the functions that train.

What is asked and how lies in `evaluation/`; here are the hooks. Every response is recorded in
`<default_root_dir>/evaluation/step-<updates>`, and questions found there are not sampled again: an evaluation whose
engine died goes on where it stopped, and `test` after `validate` only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.evaluation_settings import Asking, EvaluationSettings, plan_asking
from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.question_records import nothing, question_records, unanswered
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback
from lambda_grpo_pl.data.benchmarks import BENCHMARKS
from lambda_grpo_pl.evaluation.identity import method_name, weights_digest
from lambda_grpo_pl.evaluation.metrics import BenchmarkScores
from lambda_grpo_pl.evaluation.progress import ResumableSet, set_aside_other_weights
from lambda_grpo_pl.evaluation.records import QuestionRecord
from lambda_grpo_pl.evaluation.report import BenchmarkResult, RunInfo, write_tables
from lambda_grpo_pl.evaluation.terminal import scores_table
from lambda_grpo_pl.rewards import RewardSuite
from lambda_grpo_pl.rollout.responses import as_rewards, cut, with_stops
from lambda_grpo_pl.rollout.scoring import ResponseScoring


class BenchmarkEvaluation(L.Callback):
    """Scores each validation set, records every response, and logs `val/<set>/<measure>` and `val/average`.

    A set that is a registered benchmark brings its own sampling settings and reward; any other set is sampled greedily,
    at the training limit, and scored by the training rewards. Questions, not responses, are what intervals are over.
    How often is Lightning's `trainer.val_check_interval`; `num_sanity_val_steps: -1` evaluates the base model first.

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
            method: What tables call the method; null: `base` before the first update, then what the preference is.
            to_terminal: Print the table after every evaluation.
        """
        self.overrides = overrides
        self.benchmarks = benchmarks or {}
        self.average_over = average_over
        self.method = method
        self.to_terminal = to_terminal
        self.history: list[tuple[int, dict[str, dict[str, float]]]] = []
        self._loaded_step = 0
        self._asking: dict[str, Asking] = {}
        self._sets: dict[str, ResumableSet] = {}
        self._scores: dict[str, BenchmarkScores] = {}
        self._suites: dict[str, RewardSuite] = {}

    # ------------------------------------------------------------------------------------------------ hooks

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse an evaluation that cannot work, before a model is loaded."""
        sources = trainer.datamodule.val_sources  # type: ignore[attr-defined]
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Two validation sets have one name among {', '.join(names)}: their scores would mix. Rename a file, "
                "or evaluate them in two runs."
            )
        unknown = self.benchmarks.keys() - BENCHMARKS.keys() | set(self.average_over or ())
        if unknown := unknown - set(names):
            raise ValueError(
                f"{', '.join(sorted(unknown))} is no validation set: name some of {', '.join(names)} in "
                "evaluation.benchmarks and evaluation.average_over."
            )
        rollout, rewards = find_callback(trainer, RolloutCallback), find_callback(trainer, RewardCallback).suite.specs
        for source in sources:
            overrides = [self.overrides, self.benchmarks.get(source.name, EvaluationSettings())]
            self._asking[source.name] = plan_asking(source, overrides, rollout.sampling, rewards, rollout.seed)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Look for answers that an earlier evaluation of these weights left, and begin with empty tables."""
        data, wait = trainer.datamodule, trainer.strategy.barrier  # type: ignore[attr-defined]
        policy = f"step {self._step(trainer)}, weights {weights_digest(pl_module.policy)}"
        folder = self._folder(trainer)
        self._sets = {
            name: ResumableSet(folder, replace(asking.setup, policy=policy), [row.example for row in loader.rows])
            for (name, asking), loader in zip(self._asking.items(), data.val_dataloader(), strict=True)
        }
        if trainer.is_global_zero:
            moved = set_aside_other_weights(folder, policy)
            moved += filter(None, [each.set_aside() for each in self._sets.values()])
            for home in moved:
                rank_zero_info(f"Answers of other weights or settings were moved to {home}.")
        wait()
        for each in self._sets.values():
            each.read_found()
        wait()
        self._scores = {name: BenchmarkScores(asking.sampling.num_samples) for name, asking in self._asking.items()}
        if not all(each.complete for each in self._sets.values()):  # the same on every rank: a sync is collective
            find_callback(trainer, RolloutCallback).synchronise(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample and score the questions of a batch that are not answered yet, and take all into the set's table."""
        name = list(self._asking)[dataloader_idx]
        known = self._sets[name].found
        examples = batch.prompts.examples
        self._scores[name].update(
            [known[example["id"]].question_scores() for example in examples if example["id"] in known]
        )
        batch.prompts = unanswered(batch.prompts, known)
        if not batch.prompts.examples:
            batch.completions, batch.rewards = nothing(batch.prompts)
            return
        records = self._answer(trainer, pl_module, batch, name, batch_idx)
        self._sets[name].add(records, trainer.global_rank)
        self._scores[name].update([record.question_scores() for record in records])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Log every measure and the average, write the tables, and print them."""
        results = [
            BenchmarkResult(
                settings=self._sets[name].setup,
                measures={measure: float(value) for measure, value in scores.compute().items()},
            )
            for name, scores in self._scores.items()
        ]
        trainer.strategy.barrier()
        headlines = {result.settings.benchmark: result.headline for result in results}
        chosen = [headlines[name] for name in self.average_over or headlines]
        average = sum(chosen) / len(chosen)
        self.history.append((self._step(trainer), {each.settings.benchmark: each.measures for each in results}))
        self._log(trainer, pl_module, results, average)
        if trainer.is_global_zero:
            for each in self._sets.values():
                each.merge()
            run = self._run_info(trainer, pl_module)
            text = write_tables(self._folder(trainer), run, results)
            if self.to_terminal and trainer.state.fn == TrainerFn.FITTING:
                Console().print(scores_table(run, results, average))
            elif self.to_terminal:
                print(text)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the benchmarks' verifier processes."""
        for suite in self._suites.values():
            suite.close()
        self._suites.clear()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which update the weights are of: outside a fit the trainer does not count."""
        self._loaded_step = checkpoint["global_step"]

    def state_dict(self) -> dict[str, Any]:
        """The evaluations so far belong to the run."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history."""
        self.history = state_dict["history"]

    # ------------------------------------------------------------------------------------------------ parts

    def _answer(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, name: str, batch_idx: int
    ) -> list[QuestionRecord]:
        """Sample and score a batch as its set asks; fills `completions` and `rewards`."""
        asking = self._asking[name]
        rollout = find_callback(trainer, RolloutCallback)
        key = ("evaluation", name, batch_idx)
        tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        suite = self._suite(find_callback(trainer, RewardCallback), asking)
        scoring = ResponseScoring(suite, tokenizer, asking.setup.stop, batch.prompts)
        sampling = with_stops(asking.sampling, tokenizer, asking.setup.stop)
        completions = rollout.sample(trainer, pl_module, batch.prompts, sampling, key, scoring.hear)
        responses, scores = scoring.finish(completions)
        batch.completions, batch.rewards = cut(completions, responses), as_rewards(scores, completions.ids.device)
        return question_records(batch.prompts, responses, scores, asking.sampling.num_samples)

    def _suite(self, reward: RewardCallback, asking: Asking) -> RewardSuite:
        """The training rewards, or those of the benchmark: sets that are judged alike share their processes."""
        if not asking.rewards:
            return reward.suite
        key = repr(asking.rewards)
        if key not in self._suites:
            self._suites[key] = RewardSuite(asking.rewards, reward.pool)
        return self._suites[key]

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
            for logger in trainer.loggers:  # Lightning drops what is logged before training: the base model's row
                logger.log_metrics(metrics, step=0)

    def _step(self, trainer: L.Trainer) -> int:
        return trainer.global_step if trainer.state.fn == TrainerFn.FITTING else self._loaded_step

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "evaluation" / f"step-{self._step(trainer):06d}"

    def _run_info(self, trainer: L.Trainer, pl_module: Any) -> RunInfo:
        step = self._step(trainer)
        config = pl_module.preference.config
        trained = method_name(config.family, config.learn, config.contextual)
        method = self.method or (trained if step else "base")
        seed = None if method == "base" else find_callback(trainer, RolloutCallback).seed
        return RunInfo(model=str(pl_module.policy_config.path).rstrip("/"), method=method, seed=seed, step=step)
