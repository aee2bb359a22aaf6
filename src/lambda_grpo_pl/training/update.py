"""One optimizer update: rows in, the policy's gradient and each response's surrogate S_i out.

Everything that normalises is known before the first forward pass: advantages, the length preference f, the token
count Z. So a row enters with its weight f_i / Z_i, micro-batches only sum, and how rows are split changes nothing.
The surrogates S_i come back for the length preference, whose gradient needs no more than them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.objective import (
    SurrogateConfig,
    TokenLogprobs,
    importance_weights,
    policy_loss,
    token_statistics,
    token_surrogate,
)
from lambda_grpo_pl.policy import Layout, MicroBatch, Policy, Reference, lay_out, plan_micro_batches


class Rollout(NamedTuple):
    """What the updates of one rollout share. N rows, L response tokens."""

    prompts: Prompts
    completions: Completions
    advantages: Tensor
    """[N] float32, 0 for inactive rows."""
    old: Tensor | None
    """[N, L] log-probabilities under the policy that sampled, as the trainer computes them; None on-policy."""
    reference: Tensor | None
    """[N, L] log-probabilities under the frozen reference; None without a KL term."""
    layout: Layout
    """How rows lie in a pass."""

    @property
    def group_size(self) -> int:
        """G."""
        return self.completions.ids.shape[0] // self.prompts.ids.shape[0]


class Passes(NamedTuple):
    """How passes over rows are run, the same on every rank."""

    budget: int
    """Tokens a micro-batch."""
    agree: Callable[[int], int]
    """Largest of a number over the ranks: sharded models need the same number of passes everywhere."""
    backward: Callable[[Tensor], None]
    """Runs a loss's backward pass."""
    sync: Callable[[bool], AbstractContextManager[None]] = lambda last: nullcontext()
    """Context of one backward pass; gradients are exchanged between ranks in the last one only."""
    world_size: int = 1
    """Gradients are averaged over ranks, so a loss that is already normalised globally is scaled by this."""


class Gradient(NamedTuple):
    """What the accumulated gradient was made of."""

    surrogates: Tensor
    """[N] float32 S_i = Σ_t s_{i,t}; 0 for rows that were not needed."""
    totals: dict[str, Tensor]
    """Sums and extremes over this rank's tokens (`merge_statistics`)."""
    num_passes: int
    """Forward-backward passes, those that only keep the ranks in step included."""
    num_tokens: int
    """Tokens that went through the model."""


def micro_batches(rollout: Rollout, rows: Tensor, passes: Passes) -> Iterator[tuple[MicroBatch, bool, bool]]:
    """Yield (micro-batch, counts, is last). Ranks with fewer rows repeat one that doesn't count: skipped work,
    same passes.
    """
    prompt_lengths, lengths = rollout.prompts.lengths.cpu(), rollout.completions.lengths.cpu()
    plan = plan_micro_batches(rows.cpu(), prompt_lengths, lengths, passes.budget, rollout.layout) if len(rows) else []
    needed = passes.agree(len(plan))
    shortest = lengths.argmin()[None]
    for number in range(needed):
        counts = number < len(plan)
        chosen = (plan[number] if counts else shortest).to(rollout.completions.ids.device)
        yield lay_out(rollout.prompts, rollout.completions, chosen, rollout.layout), counts, number == needed - 1


@torch.no_grad()
def score_rows(policies: Sequence[Policy | Reference], rollout: Rollout, rows: Tensor, passes: Passes) -> list[Tensor]:
    """Log-probabilities [N, L] of the responses under each policy (old, reference), sharing the micro-batches."""
    scores = [torch.zeros(rollout.completions.ids.shape, device=rows.device) for _ in policies]
    for batch, counts, _ in micro_batches(rollout, rows, passes):
        for policy, logprobs in zip(policies, scores, strict=True):
            _, result = policy(batch)
            if counts:
                logprobs[batch.row, batch.column] = result.logprobs.float()
    return scores


def accumulate_gradient(
    policy: Policy, rollout: Rollout, rows: Tensor, weights: Tensor, config: SurrogateConfig, passes: Passes
) -> Gradient:
    """Add the gradient of −Σ_{i ∈ rows} w_i S_i to the policy's, one backward pass a micro-batch.

    Shapes: rows [n] int64, weights [N] = f_i / Z_i. The result does not depend on the budget.
    """
    meter = _Meter(rollout, weights, config)
    mixes_tokens = "sequence" in (config.ratio_level, config.is_correction != "none" and config.is_level)
    num_passes = num_tokens = 0
    for batch, counts, is_last in micro_batches(rollout, rows, passes):
        if mixes_tokens:
            _, scores = policy(batch)
            loss = meter.row_loss(scores.logprobs, batch)
        else:
            loss, scores = policy(batch, partial(meter.token_loss, batch))
        meter.close(batch, scores.entropy, counts)
        with passes.sync(is_last):
            passes.backward(loss * (passes.world_size * float(counts)))
        num_passes, num_tokens = num_passes + 1, num_tokens + batch.num_tokens
    return Gradient(meter.surrogates, meter.totals, num_passes, num_tokens)


def merge_statistics(totals: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up two sets of sums; names that end in `_min` and `_max` take the extreme."""
    merged = dict(totals)
    for name, value in more.items():
        known = merged.get(name)
        if known is None:
            merged[name] = value
        elif name.endswith(("_min", "_max")):
            merged[name] = torch.minimum(known, value) if name.endswith("_min") else torch.maximum(known, value)
        else:
            merged[name] = known + value
    return merged


class _Meter:
    """Evaluates the surrogate of one micro-batch at a time and keeps S_i and the totals of those that count."""

    def __init__(self, rollout: Rollout, weights: Tensor, config: SurrogateConfig) -> None:
        self.rollout, self.weights, self.config = rollout, weights, config
        self.surrogates = torch.zeros(len(weights), device=weights.device)
        self.totals: dict[str, Tensor] = {}
        self._open: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def token_loss(self, batch: MicroBatch, logprobs: Tensor, place: slice) -> Tensor:
        """−Σ w s over a chunk of tokens; elementwise, so the head can differentiate it in the same pass."""
        row, column = batch.row[place], batch.column[place]
        old, reference = (None if t is None else t[row, column] for t in (self.rollout.old, self.rollout.reference))
        old = logprobs.detach() if old is None else old
        sampled = self.rollout.completions.logprobs[row, column]
        everywhere = torch.ones_like(row, dtype=torch.bool)
        correction = importance_weights(old, sampled, everywhere, self.config)
        tokens = token_surrogate(logprobs, old, reference, correction, self.rollout.advantages[row], self.config)
        statistics = token_statistics(tokens, old, sampled, correction, everywhere)
        self._open.append((row, tokens.value.detach(), statistics))
        return -(self.weights[row] * tokens.value).sum()

    def row_loss(self, logprobs: Tensor, batch: MicroBatch) -> Tensor:
        """The same for objectives that mix the tokens of a row (sequence-level ratios and weights)."""
        rows = torch.unique(batch.row)
        place = torch.searchsorted(rows, batch.row), batch.column
        shape = (len(rows), self.rollout.completions.ids.shape[1])
        mask = torch.zeros(shape, dtype=torch.bool, device=logprobs.device).index_put(
            place, torch.ones_like(batch.row) > 0
        )
        policy = logprobs.new_zeros(shape).index_put(place, logprobs)
        old, reference = (None if t is None else t[rows] for t in (self.rollout.old, self.rollout.reference))
        tokens = TokenLogprobs(policy, old, reference, self.rollout.completions.logprobs[rows])
        output = policy_loss(tokens, mask, self.rollout.advantages[rows], self.weights[rows], self.config)
        self._open.append((rows, output.surrogates, output.statistics))
        return output.loss

    def close(self, batch: MicroBatch, entropy: Tensor, counts: bool) -> None:
        """Take the micro-batch just evaluated into the totals, if it counts."""
        for rows, surrogates, statistics in self._open if counts else ():
            self.surrogates.index_add_(0, rows, surrogates.float())
            self.totals = merge_statistics(self.totals, statistics)
        if counts:
            self.totals = merge_statistics(self.totals, {"entropy": entropy.detach().sum()})
        self._open.clear()
