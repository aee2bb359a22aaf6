"""Sampling: writes `batch.completions` before the step, with the weights that the step starts from."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lambda_grpo_pl.batch import Completions, Prompts, RolloutBatch
from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.timing import timed
from lambda_grpo_pl.rollout.responses import cut, read_responses, with_stops
from lambda_grpo_pl.sampling import (
    OnGroup,
    Sampler,
    SamplerName,
    SamplerProcess,
    SamplerRecipe,
    SamplingSettings,
    VllmSettings,
    check_sync,
    plan_adapters,
    probe_sequences,
)

TRUNCATION_WARNING = 0.5
"""Share of truncated responses above which training mostly learns to be cut off."""


class OwnProcess(NamedTuple):
    """What a sampler in a process of its own may use."""

    num_threads: int | None
    """CPU threads; None: as many as this process has."""
    device: int | None
    """GPU, counted among the visible ones; None: this process's."""


class RolloutAhead(NamedTuple):
    """A rollout that was begun before its step."""

    completions: Future[Completions]
    """On the CPU, as they were sampled."""
    step: int
    """`global_step` whose weights they were sampled with."""


class RolloutCallback(L.Callback):
    """Samples G responses to each prompt, from exactly the policy that the step will train (but see `OneStepOff`).

    Before sampling, weights that changed are handed to the engine, and a self-test compares its log-probabilities
    with the trainer's: a stale tensor ends the run with a sentence instead of costing weeks. Seeds are a function of
    (seed, stage, batch number, rank), so a resumed run samples what the interrupted one would have.

    Attributes:
        ahead: rollouts that were begun already (`begin`), by the number of their batch.
        own_process: set before training starts, the sampler gets a process of its own; `begin` needs that.
    """

    def __init__(
        self,
        sampler: SamplerName = "auto",
        sampling: SamplingSettings = SamplingSettings(num_samples=8),
        engine: VllmSettings = VllmSettings(),
        seed: int = 0,
        sync_tolerance: float | None = None,
    ) -> None:
        """Keep the settings; the engine starts when training or validation does.

        Args:
            sampler: `vllm` (in process), `transformers` (needs nothing else), or `auto`: vLLM where it is installed.
            sampling: How training samples. `num_samples` is the group size G, `max_tokens` the response limit.
            engine: Memory and kernels of vLLM.
            seed: First number of every sampling seed. Linked to seed_everything.
            sync_tolerance: Largest difference (nats) the self-test accepts; null: 1e-3 in float32, 0.2 below.
        """
        self.sampler_name = sampler
        self.sampling = sampling
        self.engine = engine
        self.seed = seed
        self.sync_tolerance = sync_tolerance
        self.sampler: Sampler | None = None
        self.ahead: dict[int, RolloutAhead] = {}
        self.own_process: OwnProcess | None = None
        self._synced_at: int | None = None
        self._warned = False

    # ------------------------------------------------------------------------------------------------ hooks

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Sample the training batch, or wait for what is being sampled already."""
        begun = self.ahead.pop(batch.index, None)
        if begun is None:
            self.synchronise(trainer, pl_module)
        with timed(pl_module, "sample"):
            if begun is None:
                batch.completions = self.sample_training(trainer, pl_module, batch.prompts, ("train", batch.index))
            else:
                batch.completions = self._ended(trainer, begun.completions.result())
                batch.to(pl_module.device)
        staleness = 0 if begun is None else trainer.global_step - begun.step
        pl_module.log("sampler/staleness", float(staleness))
        self._log(pl_module, batch.completions)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample as in training, unless the evaluation has sampled already with settings of its own."""
        if batch.completions is None:
            self.synchronise(trainer, pl_module)
            key = ("validation", dataloader_idx, batch_idx)
            batch.completions = self.sample_training(trainer, pl_module, batch.prompts, key)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the engine."""
        if self.sampler is not None:
            self.sampler.close()
        self.sampler = self._synced_at = None
        self.ahead.clear()

    # ------------------------------------------------------------------------------------------------ parts

    def sample(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prompts: Prompts,
        settings: SamplingSettings,
        key: tuple[str | int, ...],
        on_group: OnGroup | None = None,
    ) -> Completions:
        """Sample with the weights of the last sync; `key` names the occasion and makes the seed."""
        assert self.sampler is not None
        return self.sampler.generate(prompts, settings, self._seed(trainer, key), on_group)

    def sample_training(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prompts: Prompts, key: tuple[str | int, ...]
    ) -> Completions:
        """Sample as training does: with `sampling`, ended where the training prompts' template says.

        The rewards hear of each group as soon as it has ended.
        """
        on_group = find_callback(trainer, RewardCallback).listen(trainer, prompts, key)
        return self._ended(trainer, self.sample(trainer, pl_module, prompts, self._training(trainer), key, on_group))

    def begin(self, trainer: L.Trainer, batch: RolloutBatch) -> RolloutAhead:
        """Begin to sample a later training batch with the weights of the last sync; its step will find it."""
        assert isinstance(self.sampler, SamplerProcess), "set own_process before training starts"
        key = ("train", batch.index)
        on_group = find_callback(trainer, RewardCallback).listen(trainer, batch.prompts, key)
        future = self.sampler.begin(batch.prompts, self._training(trainer), self._seed(trainer, key), on_group)
        self.ahead[batch.index] = RolloutAhead(future, trainer.global_step)
        return self.ahead[batch.index]

    def synchronise(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Give the engine the policy's weights, if they changed, and prove that it has them."""
        if self._synced_at == trainer.global_step:
            return
        with timed(pl_module, "sync") if trainer.training else nullcontext():
            if self.sampler is None:
                self.sampler = self._start(trainer, pl_module)
            self.sampler.sync(pl_module.policy.model)
            probe = probe_sequences(len(trainer.datamodule.tokenizer))  # type: ignore[attr-defined]
            gap = check_sync(self.sampler, pl_module.policy.sequence_logprobs, probe, self._tolerance(trainer))
        if trainer.training:
            pl_module.log("sampler/sync_gap", gap)
        self._synced_at = trainer.global_step

    def _tolerance(self, trainer: L.Trainer) -> float:
        if self.sync_tolerance is not None:
            return self.sync_tolerance
        return 1e-3 if str(trainer.precision).startswith("32") else 0.2

    def _start(self, trainer: L.Trainer, pl_module: Any) -> Sampler:
        tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        recipe = SamplerRecipe(
            name=self.sampler_name,
            config=pl_module.policy.causal_lm.config,
            eos_token_ids=(tokenizer.eos_token_id,),
            pad_token_id=tokenizer.pad_token_id,
            engine=self.engine,
            adapters=plan_adapters(pl_module.policy.model) if self.engine.lora_adapters else None,
        )
        return recipe.build() if self.own_process is None else SamplerProcess(recipe, *self.own_process)

    def _seed(self, trainer: L.Trainer, key: tuple[str | int, ...]) -> int:
        words = [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in key]
        return int(np.random.SeedSequence([self.seed, *words, trainer.global_rank]).generate_state(1, np.uint32)[0])

    def _training(self, trainer: L.Trainer) -> SamplingSettings:
        data = trainer.datamodule  # type: ignore[attr-defined]
        return with_stops(self.sampling, data.tokenizer, data.stops)

    def _ended(self, trainer: L.Trainer, completions: Completions) -> Completions:
        """End responses where the training prompts' template says."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        return cut(completions, read_responses(data.tokenizer, completions, data.stops)) if data.stops else completions

    def _log(self, pl_module: L.LightningModule, completions: Completions) -> None:
        lengths = completions.lengths.float()
        truncated = float(completions.truncated.float().mean())
        pl_module.log_dict(
            {
                "response/length": lengths.mean(),
                "response/length_std": lengths.std(unbiased=False),
                "response/length_min": lengths.min(),
                "response/length_max": lengths.max(),
                "response/truncated": truncated,
            },
            sync_dist=True,
        )
        if truncated > TRUNCATION_WARNING and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"{truncated:.0%} of the responses were cut at {self.sampling.max_tokens} tokens and have no end: "
                "raise rollout.sampling.max_tokens, or use a prompt template that the model knows how to answer "
                "and end."
            )
