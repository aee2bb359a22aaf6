"""A rehearsal before the first step: the largest batch that a run can meet, so that too little memory shows at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from typing_extensions import override

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule, engine, trained
from lambda_grpo_pl.callbacks.phases import CLOCK, OTHER
from lambda_grpo_pl.data.batching import share_prompts
from lambda_grpo_pl.data.module import TRAINING
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rollout.engine import RolloutEngine

SAMPLED_TOKENS = 16
"""Response tokens that the engine samples: vLLM has reserved its cache, and the prompts fill its largest batch."""
MICRO_BATCHES = 2
"""Micro-batches that pass: the second one finds the first one's gradients."""
SAMPLING_REMEDY = (
    "lower rollout.engine.max_num_seqs or rollout.engine.gpu_memory_utilization, or use data.rules.max_prompt_tokens "
    "to drop the longest prompts"
)
TRAINING_REMEDY = (
    "lower model.policy.tokens_per_micro_batch, set model.policy.gradient_checkpointing or rollout.engine.sleep to "
    "true, lower rollout.sampling.max_tokens, or shard the policy (configs/strategy/fsdp2.yaml); `lambda-grpo plan` "
    "shows what each of them saves"
)


class Rehearsal(L.Callback):
    """Samples a full batch of the longest prompts, and passes full-length responses forward and backward, once.

    A run that does not fit then ends in its first minute, with a sentence that says what to change, instead of at the
    first rollout whose responses happen to be long. Weights, optimizer, random numbers and metrics are what they would
    be without it.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        """Keep the setting.

        Args:
            enabled: Rehearse when a fit begins; null: on GPUs.
        """
        self.enabled = enabled
        self._done = False

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rehearse before the base model is evaluated, which may take long."""
        self._rehearse(trainer, pl_module)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rehearse if there was no evaluation first."""
        self._rehearse(trainer, pl_module)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Rehearse again in another fit."""
        self._done = False

    def _rehearse(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        enabled = pl_module.device.type == "cuda" if self.enabled is None else self.enabled
        if not enabled or self._done:
            return
        self._done = True
        module, rollouts, data = trained(pl_module), engine(trainer), datamodule(trainer)
        CLOCK.enter("rehearse")
        longest = data.longest_prompts[TRAINING]
        share = share_prompts(data.batch_size, trainer.world_size)
        with isolate_rng(), explain_memory("sampling the longest prompts", SAMPLING_REMEDY):
            rollouts.sync(module.policy, trainer.global_step)
            sample_full_batch(rollouts, share, longest, pl_module.device)
            rollouts.sampler.expire()  # so that the first step syncs, and logs it, as it would have done
        per_update = share // module.updates.num_minibatches
        batch = make_largest_batch(rollouts, per_update, longest, module.token_budget)
        what = f"training on responses of {rollouts.sampling.max_tokens} tokens"
        context = trainer.precision_plugin.train_step_context()
        with isolate_rng(), explain_memory(what, TRAINING_REMEDY), _train_mode(pl_module), context, torch.enable_grad():
            module.rehearse(batch.to(pl_module.device))
        CLOCK.enter(OTHER)
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**30
            rank_zero_info(f"Rehearsal: the largest batch fits; torch held {peak:.1f} GiB at its peak.")


def sample_full_batch(rollouts: RolloutEngine, num_prompts: int, longest: int, device: torch.device) -> None:
    """Sample the beginning of every response of a rollout whose prompts all have `longest` tokens."""
    prompts = Prompts(
        _random_ids(rollouts, (num_prompts, longest)).to(device),
        torch.full((num_prompts,), longest, device=device),
        ({},) * num_prompts,
    )
    settings = replace(rollouts.sampling, max_tokens=min(rollouts.sampling.max_tokens, SAMPLED_TOKENS))
    rollouts.sampler.started.generate(prompts, settings, seed=0)


def make_largest_batch(rollouts: RolloutEngine, num_prompts: int, longest: int, token_budget: int) -> RolloutBatch:
    """Return a scored batch of full-length responses to the longest prompts.

    Args:
        rollouts: Its sampling settings say how many responses a prompt has, and how long they are.
        num_prompts: Prompts of an update on this rank; fewer are enough if they fill `MICRO_BATCHES` micro-batches.
        longest: Tokens of each prompt.
        token_budget: Tokens of a micro-batch.
    """
    group, length = rollouts.sampling.num_samples, rollouts.sampling.max_tokens
    num_prompts = min(num_prompts, math.ceil(MICRO_BATCHES * token_budget / (group * length)))
    num_rows = num_prompts * group
    lengths = torch.full((num_rows,), length)
    completions = Completions(
        _random_ids(rollouts, (num_rows, length)), lengths, lengths > 0, torch.zeros(num_rows, length)
    )
    total = (torch.arange(num_rows) % 2).float()
    prompts = Prompts(
        _random_ids(rollouts, (num_prompts, longest)), torch.full((num_prompts,), longest), ({},) * num_prompts
    )
    return RolloutBatch(
        prompts,
        completions=completions,
        rewards=Rewards(total, total > 0, torch.ones(num_rows, dtype=torch.bool), {"rehearsal": total}),
    )


@contextmanager
def explain_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory into a `UserError` that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"There is not enough memory for {what}: {remedy}. ({str(error).splitlines()[0]})") from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Torch on CPUs raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _random_ids(rollouts: RolloutEngine, shape: tuple[int, int]) -> Tensor:
    """Tokens without a pattern, so that a mixture of experts spreads them as it would spread text."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(len(rollouts.run.tokenizer), shape, generator=generator)


@contextmanager
def _train_mode(module: L.LightningModule) -> Iterator[None]:
    evaluated = [part for part in module.modules() if not part.training]
    module.train()
    try:
        yield
    finally:
        for part in evaluated:
            part.training = False
