"""Sampling: writes `batch.completions` before the step, with the weights that the step starts from."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lambda_grpo_pl.batch import Completions, RolloutBatch
from lambda_grpo_pl.callbacks.agreement import check_agreement
from lambda_grpo_pl.callbacks.context import EngineOwner, callbacks, datamodule, engine, find_callback, trained
from lambda_grpo_pl.callbacks.lengths import check_lengths
from lambda_grpo_pl.callbacks.order_check import check_order
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.timing import timed
from lambda_grpo_pl.data.module import TRAINING
from lambda_grpo_pl.rollout.engine import RolloutEngine
from lambda_grpo_pl.rollout.policy_sampler import PolicySampler
from lambda_grpo_pl.rollout.run_context import RunContext
from lambda_grpo_pl.sampling import (
    DEFAULT_CONTEXT,
    RecoverySettings,
    Sampler,
    SamplerName,
    SamplingSettings,
    ServerSettings,
    VllmSettings,
    engine_settings,
)

TRUNCATION_WARNING = 0.5
"""Share of truncated responses above which training mostly learns to be truncated."""


class RolloutCallback(EngineOwner):
    """Samples G responses to each prompt, from exactly the policy that the step will train (but see `OneStepOff`).

    Before sampling, weights that changed are handed to the sampler, and a self-test compares its log-probabilities
    with the policy's: a stale tensor ends the run with an error message instead of costing weeks. Seeds are a function
    of (seed, occasion, rank), so a resumed run samples what the interrupted run would have sampled.

    Attributes:
        sampler: Set before a run to sample with it instead of starting one; it is closed when the run ends.
        rollout_engine: What samples and scores, from `setup` to `teardown`.
    """

    def __init__(
        self,
        sampler: SamplerName = "auto",
        sampling: SamplingSettings = SamplingSettings(num_samples=8),
        engine: VllmSettings = VllmSettings(),
        server: ServerSettings = ServerSettings(),
        recovery: RecoverySettings = RecoverySettings(),
        seed: int | None = None,
        sync_tolerance: float | None = None,
    ) -> None:
        """Keep the settings; the sampler starts when training or evaluation first samples.

        Args:
            sampler: `vllm`, `transformers` (needs no other package), `server` (vLLM servers, see `server`), or `auto`:
                vLLM if it is installed.
            sampling: How training samples. `num_samples` is the group size G, `max_tokens` the response limit.
            engine: Memory and kernels of vLLM.
            server: Addresses of vLLM servers, and how they get weights.
            recovery: How often a sampler that fails is restarted, and when it counts as hanging.
            seed: Seed of all sampling; null: that of the data. Linked to seed_everything.
            sync_tolerance: Largest gap (nats) that the self-test accepts between the log-probabilities of sampler and
                policy: of any token if both compute in float32 (null: 1e-3), else of the mean over the probe (null:
                2.5 times what rounding alone gives, measured on the policy).
        """
        self.sampler_name = sampler
        self.sampling = sampling
        self.vllm = engine
        self.server = server
        self.recovery = recovery
        self.seed = seed
        self.sync_tolerance = sync_tolerance
        self.sampler: Sampler | None = None
        self._warned = False

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the callbacks and the sampling settings, and make the engine. Raises `UserError`."""
        data = datamodule(trainer)
        check_order(callbacks(trainer), evaluates=bool(data.val_sources) and stage != "predict")
        if stage == "fit":
            check_agreement(trained(pl_module), data, self.sampling)
        float32 = str(trainer.precision).startswith("32")
        settings = engine_settings(self.sampler_name, self.vllm)
        needed = data.rules.max_prompt_tokens + self.sampling.max_tokens
        for name in {"fit": [TRAINING], "predict": data.val_names}.get(stage, []):
            check_lengths(data, name, self.sampling.max_tokens, settings, "rollout.sampling.max_tokens")
        run = RunContext(
            tokenizer=data.tokenizer,
            stops=data.stops,
            seed=data.seed if self.seed is None else self.seed,
            rank=trainer.global_rank,
            sync_tolerance=self.sync_tolerance,
            context_length=max(DEFAULT_CONTEXT, needed),
            trainer_dtype=torch.float32 if float32 else torch.bfloat16,
        )
        suites = find_callback(trainer, RewardCallback).suites
        sampler = PolicySampler(run, self.sampler_name, self.vllm, self.sampler, self.server, self.recovery)
        self.rollout_engine = RolloutEngine(run, self.sampling, suites, sampler)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Sample the training batch, or wait for the responses that are being sampled already."""
        rollouts = engine(trainer)
        if not rollouts.has_begun(batch.index):
            sync_sampler(trainer, pl_module)
        with timed(pl_module, "sample"):
            version = rollouts.sample_batch(batch)
            batch.to(pl_module.device)
        pl_module.log("sampler/staleness", float(trainer.global_step - version))
        num_restarts = float(rollouts.sampler.calls.recovery.num_restarts)
        pl_module.log("sampler/restarts", num_restarts, sync_dist=True, reduce_fx="sum")
        self._log(pl_module, batch.sampled())

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Free the memory that only sampling needs (`rollout.engine.sleep`); the next use brings it back."""
        engine(trainer).sampler.sleep()

    @override
    def on_predict_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample as in training."""
        rollouts = engine(trainer)
        rollouts.sync(trained(pl_module).policy, trainer.global_step)
        batch.completions = rollouts.sample(batch.prompts, ("validation", dataloader_idx, batch_idx))

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the sampler and stop the verifier processes."""
        if self.rollout_engine is not None:
            self.rollout_engine.close()
        self.rollout_engine = self.sampler = None

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
                f"{truncated:.0%} of the responses were truncated at {self.sampling.max_tokens} tokens: raise "
                "rollout.sampling.max_tokens, or use a prompt template whose answers the model knows how to finish "
                "(data.train.template)."
            )


def sync_sampler(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Give the sampler the policy's weights if they changed, and log how long it took and how well they agree."""
    rollouts = engine(trainer)
    if not rollouts.sampler.has(trainer.global_step):
        with timed(pl_module, "sync"):
            rollouts.sync(trained(pl_module).policy, trainer.global_step)
    pl_module.log("sampler/sync_gap", rollouts.sampler.gap)  # an evaluation may have synced these weights before
