"""Further rollouts of a step: replacements for groups that teach nothing, and held-out groups that tune λ."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import pad

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback


def roll_out(
    trainer: L.Trainer,
    pl_module: L.LightningModule,
    stream: Literal["replacement", "heldout"],
    num_prompts: int,
    key: tuple[str | int, ...],
) -> RolloutBatch:
    """Draw prompts from a stream of the data module, sample and score them like a training batch."""
    prompts: Prompts = trainer.datamodule.draw(num_prompts, stream)  # type: ignore[attr-defined]
    batch = RolloutBatch(prompts).to(pl_module.device)
    rollout = find_callback(trainer, RolloutCallback)
    rollout.synchronise(trainer, pl_module)
    batch.completions = rollout.sample_training(trainer, pl_module, batch.prompts, key)
    find_callback(trainer, RewardCallback).score(trainer, batch, key)
    return batch


class DynamicSampling(L.Callback):
    """Replaces groups whose responses all earned the same by groups that did not (DAPO, arXiv 2503.14476, section 3.2).

    Equal rewards give no gradient, so such groups shrink the batch. Each round draws as many new prompts as there are
    flat groups, samples and scores them, and puts the informative ones in their place; the batch keeps its size. All
    ranks run the same number of rounds. What is still flat after the last round stays and weighs nothing.
    """

    def __init__(self, max_rounds: int = 0) -> None:
        """Keep the setting.

        Args:
            max_rounds: Rounds of replacement a step; 0 switches dynamic sampling off.
        """
        if max_rounds < 0:
            raise ValueError(f"dynamic_sampling.max_rounds is {max_rounds}: set it to 0 (off) or more.")
        self.max_rounds = max_rounds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Refill the batch with informative groups."""
        rounds = 0
        while rounds < self.max_rounds:
            flat = batch.flat_groups()
            worst = trainer.strategy.reduce(flat.sum().float(), reduce_op="max")
            if int(worst) == 0:
                break
            rounds += 1
            fresh = roll_out(trainer, pl_module, "replacement", int(worst), ("replacement", batch.index, rounds))
            replace_groups(batch, flat, fresh)
        if self.max_rounds:
            still_flat = float(batch.flat_groups().float().mean())
            pl_module.log_dict({"dynamic_sampling/rounds": float(rounds), "dynamic_sampling/still_flat": still_flat})
            if still_flat == 1.0:
                rank_zero_warn(
                    f"After {rounds} rounds of dynamic sampling every group still earned equal rewards: the prompts "
                    "are all too easy or all too hard for this policy. Change the data or the reward."
                )


class HeldoutRollout(L.Callback):
    """Brings a scored batch of held-out prompts every few steps, for the `validation` rule of λ."""

    def __init__(self, every: int = 0, num_prompts: int = 16) -> None:
        """Keep the settings.

        Args:
            every: Steps between two held-out batches; 0 switches them off.
            num_prompts: Held-out prompts a batch and rank.
        """
        if every < 0 or num_prompts < 1:
            raise ValueError(
                f"heldout.every is {every} and heldout.num_prompts {num_prompts}: set them to at least 0 and 1."
            )
        self.every, self.num_prompts = every, num_prompts

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Attach the held-out batch when its turn has come."""
        if self.every and batch.index % self.every == 0:
            batch.heldout = roll_out(trainer, pl_module, "heldout", self.num_prompts, ("heldout", batch.index))


def replace_groups(batch: RolloutBatch, where: Tensor, fresh: RolloutBatch) -> None:
    """Put the informative groups of `fresh` in place of the groups `where` [B] of `batch`, as far as they go."""
    sources = torch.nonzero(~fresh.flat_groups()).flatten().tolist()
    pairs = list(zip(torch.nonzero(where).flatten().tolist(), sources, strict=False))
    if not pairs:
        return
    targets, sources = (list(side) for side in zip(*pairs, strict=True))
    group = batch.group_size
    to, taken = (
        torch.tensor([g * group + member for g in groups for member in range(group)], device=where.device)
        for groups in (targets, sources)
    )
    examples = list(batch.prompts.examples)
    for target, source in pairs:
        examples[target] = fresh.prompts.examples[source]
    batch.prompts = Prompts(
        _put(batch.prompts.ids, fresh.prompts.ids, targets, sources, pad_left=True),
        _put(batch.prompts.lengths, fresh.prompts.lengths, targets, sources),
        tuple(examples),
    )
    ours, theirs = batch.sampled(), fresh.sampled()
    batch.completions = Completions._make(_put(a, b, to, taken) for a, b in zip(ours, theirs, strict=True))
    mine, other = batch.scored(), fresh.scored()
    batch.rewards = Rewards(
        total=_put(mine.total, other.total, to, taken),
        correct=_put(mine.correct, other.correct, to, taken),
        active=_put(mine.active, other.active, to, taken),
        parts={name: _put(part, other.parts[name], to, taken) for name, part in mine.parts.items()},
    )


def _put(ours: Tensor, theirs: Tensor, targets: Any, sources: Any, pad_left: bool = False) -> Tensor:
    """Copy rows, widening the narrower of two padded tensors on its padding side."""
    if ours.ndim == 2:
        width = max(ours.shape[1], theirs.shape[1])
        ours, theirs = (
            pad(t, (width - t.shape[1], 0) if pad_left else (0, width - t.shape[1])) for t in (ours, theirs)
        )
    result = ours.clone()
    result[targets] = theirs[sources]
    return result
