"""Further rollouts of a step: replacements for groups that teach nothing, and held-out groups that tune λ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from lambda_grpo_pl.batch import Completions, Metric, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule, engine, trained
from lambda_grpo_pl.callbacks.rollout import sync_sampler
from lambda_grpo_pl.data.module import Stream
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rollout.run_context import Key


class DynamicSampling(L.Callback):
    """Replaces flat groups, whose responses are all right or all wrong (DAPO, arXiv 2503.14476, section 3.2).

    They give no gradient, so they shrink the batch. Each round draws as many new prompts as there are flat groups,
    samples and scores them, and puts the informative ones in their place; the batch keeps its size. All ranks run the
    same number of rounds. Groups that are still flat after the last round stay.
    """

    def __init__(self, max_rounds: int = 0, metric: Metric = "correct") -> None:
        """Keep the settings.

        Args:
            max_rounds: Rounds of replacement per step; 0 switches dynamic sampling off.
            metric: What makes a group flat: `correct`, all responses right or all wrong (DAPO's); `total`, equal total
                rewards, for rewards that are never simply right or wrong.
        """
        if max_rounds < 0:
            raise UserError(f"dynamic_sampling.max_rounds is {max_rounds}: set it to 0 (off) or more.")
        self.max_rounds, self.metric = max_rounds, metric

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Refill the batch with informative groups."""
        rounds = 0
        while rounds < self.max_rounds:
            flat = batch.flat_groups(self.metric)
            worst = trainer.strategy.reduce(flat.sum().float(), reduce_op="max")
            if int(worst) == 0:
                break
            rounds += 1
            fresh = draw_batch(trainer, pl_module, "replacement", int(worst), ("replacement", batch.index, rounds))
            replace_groups(batch, flat, fresh, self.metric)
        if self.max_rounds:
            still_flat = float(batch.flat_groups(self.metric).float().mean())
            pl_module.log_dict({"dynamic_sampling/rounds": float(rounds), "dynamic_sampling/still_flat": still_flat})
            if still_flat == 1.0:
                graded = ", or set dynamic_sampling.metric to total if the reward is graded" * (
                    self.metric == "correct"
                )
                rank_zero_warn(
                    f"After {rounds} rounds of dynamic sampling, every group is still flat: the prompts are too easy "
                    f"or too hard for this policy. Change data.train or reward.functions{graded}."
                )


class HeldoutRollout(L.Callback):
    """Adds a scored batch of held-out prompts every few steps: for the `validation` rule of λ, and for the lens, which
    then shows how much each length preference would gain on them.
    """

    def __init__(self, every: int = 0, num_prompts: int = 16, length_cost: float = 0.0) -> None:
        """Keep the settings.

        Args:
            every: Steps between two held-out batches; 0 switches them off.
            num_prompts: Held-out prompts per batch and rank.
            length_cost: c of the held-out objective, reward − c · tokens / rollout.sampling.max_tokens: what a response
                of full length costs, in units of the reward. Above 0, λ balances quality and length.
        """
        if every < 0 or num_prompts < 1:
            raise UserError(
                f"heldout.every is {every} and heldout.num_prompts {num_prompts}: set them to at least 0 and 1."
            )
        if not 0 <= length_cost < math.inf:
            raise UserError(f"heldout.length_cost is {length_cost}: set it to 0 or a positive number.")
        self.every, self.num_prompts, self.length_cost = every, num_prompts, length_cost

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse held-out batches that nothing reads or that have no prompts, and a rule that gets none."""
        if stage == "fit":
            module, has_prompts = trained(pl_module), datamodule(trainer).heldout_source is not None
            check_heldout(self.every, has_prompts, module.preference.config.learn, module.lens.methods)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Attach a held-out batch when it is due."""
        if self.every and batch.index % self.every == 0:
            batch.heldout = draw_batch(trainer, pl_module, "heldout", self.num_prompts, ("heldout", batch.index))
            charge_length(batch.heldout, self.length_cost / engine(trainer).sampling.max_tokens)


def check_heldout(every: int, has_prompts: bool, learn: str, methods: Sequence[str]) -> None:
    """Refuse settings of held-out batches that do not fit each other. Raises `UserError`.

    Args:
        every: `heldout.every`.
        has_prompts: Whether `data.heldout` is set.
        learn: `model.preference.learn`.
        methods: `model.lens.methods`.
    """
    source = "set data.heldout to a source that is neither trained nor tested on"
    if learn == "validation" and not has_prompts:
        raise UserError(f"model.preference.learn is validation, but there are no held-out prompts: {source}.")
    if learn == "validation" and every == 0:
        raise UserError(
            "model.preference.learn is validation, but no held-out batches are sampled: set heldout.every to the "
            "number of steps between two updates of λ, such as 10."
        )
    if every > 0 and not has_prompts:
        raise UserError(
            f"heldout.every is {every}, but there are no held-out prompts: {source}, or heldout.every to 0."
        )
    if every > 0 and learn != "validation" and not methods:
        raise UserError(
            f"heldout.every is {every}, but nothing reads held-out batches: set model.preference.learn to validation, "
            "list methods in model.lens.methods, or set heldout.every to 0."
        )


def draw_batch(
    trainer: L.Trainer, pl_module: L.LightningModule, stream: Stream, num_prompts: int, key: Key
) -> RolloutBatch:
    """Draw prompts from a stream of the data module, and sample and score them like a training batch."""
    prompts = RolloutBatch(datamodule(trainer).draw(num_prompts, stream)).to(pl_module.device).prompts
    sync_sampler(trainer, pl_module)
    return engine(trainer).roll_out(prompts, key)


def charge_length(batch: RolloutBatch, cost: float) -> None:
    """Subtract `cost` per token from the total reward of every response of a scored batch."""
    rewards, lengths = batch.scored(), batch.sampled().lengths
    batch.rewards = rewards._replace(total=rewards.total - cost * lengths.to(rewards.total.dtype))


def replace_groups(batch: RolloutBatch, where: Tensor, fresh: RolloutBatch, metric: Metric) -> None:
    """Put the informative groups of `fresh` in place of the groups `where` [B] of `batch`, as far as they go."""
    sources = torch.nonzero(~fresh.flat_groups(metric)).flatten().tolist()
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
    ours, others = batch.sampled(), fresh.sampled()
    batch.completions = Completions._make(_put(a, b, to, taken) for a, b in zip(ours, others, strict=True))
    mine, other = batch.scored(), fresh.scored()
    verdicts = list(mine.verdicts)
    for place, source in zip(to.tolist(), taken.tolist(), strict=True) if verdicts and other.verdicts else ():
        verdicts[place] = other.verdicts[source]
    batch.rewards = Rewards(
        total=_put(mine.total, other.total, to, taken),
        correct=_put(mine.correct, other.correct, to, taken),
        active=_put(mine.active, other.active, to, taken),
        parts={name: _put(part, other.parts[name], to, taken) for name, part in mine.parts.items()},
        verdicts=tuple(verdicts),
    )


def _put(
    target: Tensor, source: Tensor, to: Sequence[int] | Tensor, taken: Sequence[int] | Tensor, pad_left: bool = False
) -> Tensor:
    """Copy rows `taken` of `source` to rows `to`, widening the narrower of two padded tensors on its padding side."""
    if target.ndim == 2:
        width = max(target.shape[1], source.shape[1])
        target, source = (
            pad(t, (width - t.shape[1], 0) if pad_left else (0, width - t.shape[1])) for t in (target, source)
        )
    result = target.clone()
    result[to] = source[taken]
    return result
