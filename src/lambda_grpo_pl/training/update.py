"""One optimizer update: rows in, the policy's gradient and each response's surrogate S_i out.

Everything that normalizes is known before the first forward pass: advantages, the length preference f, the token
count Z. So a row enters with its weight f_i / Z_i, micro-batches only add up, and how rows are split changes nothing.
The length preference gets the surrogates S_i, which are all that its gradient needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Completions, Groups, Prompts, RolloutBatch
from lambda_grpo_pl.objective import (
    AdvantageConfig,
    SurrogateConfig,
    TokenLogprobs,
    compute_advantages,
    policy_loss,
    reward_moments,
    token_terms,
)
from lambda_grpo_pl.policy import Layout, MicroBatch, Policy, Reference, lay_out, plan_micro_batches
from lambda_grpo_pl.training.token_metrics import merge_totals


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
    """How rows are laid out in a pass."""

    def describe(self) -> dict[str, Tensor]:
        """Return what a record of the rollout needs: `advantages`, `old` and `reference`, and zeros [N] for `f` and
        `surrogates`, which the updates fill in.
        """
        zeros = torch.zeros_like(self.advantages)
        known = {"advantages": self.advantages, "old": self.old, "reference": self.reference}
        known |= {"f": zeros.double(), "surrogates": zeros}
        return {name: value for name, value in known.items() if value is not None}


class Passes(NamedTuple):
    """How passes over rows are run, the same on every rank."""

    budget: int
    """Tokens per micro-batch."""
    agree: Callable[[int], int]
    """Largest of a number over the ranks: sharded models need the same number of passes on every rank."""
    backward: Callable[[Tensor], None]
    """Runs a loss's backward pass."""
    sync: Callable[[bool], AbstractContextManager[None]] = lambda last: nullcontext()
    """Context of one backward pass, told whether it is the last one of the update (`sync_gradients`)."""
    total: Callable[[Tensor], Tensor] = lambda values: values
    """Adds a small vector over the ranks."""
    world_size: int = 1
    """Gradients are averaged over ranks, so a loss that is already normalised globally is scaled by this."""


class Gradient(NamedTuple):
    """What the accumulated gradient was made of."""

    surrogates: Tensor
    """[N] float32 S_i = Σ_t s_{i,t}; 0 for rows that were not needed."""
    totals: dict[str, Tensor]
    """Sums and extremes over this rank's tokens (`merge_totals`)."""
    num_tokens: int
    """Tokens that passed through the model."""


def micro_batches(rollout: Rollout, rows: Tensor, passes: Passes) -> Iterator[tuple[MicroBatch, bool, bool]]:
    """Yield (micro-batch, counts, is last). A rank with fewer of them repeats one that does not count, because every
    rank has to run the same number of passes.
    """
    prompt_lengths, lengths = rollout.prompts.lengths.cpu(), rollout.completions.lengths.cpu()
    parts = plan_micro_batches(rows.cpu(), prompt_lengths, lengths, passes.budget, rollout.layout) if len(rows) else []
    num_passes = passes.agree(len(parts))
    shortest = lengths.argmin()[None]
    for number in range(num_passes):
        counts = number < len(parts)
        part = (parts[number] if counts else shortest).to(rollout.completions.ids.device)
        yield lay_out(rollout.prompts, rollout.completions, part, rollout.layout), counts, number == num_passes - 1


@torch.no_grad()
def score_rows(policies: Sequence[Policy | Reference], rollout: Rollout, rows: Tensor, passes: Passes) -> list[Tensor]:
    """Log-probabilities [N, L] of the responses under each policy (old, reference), sharing the micro-batches."""
    scores = [torch.zeros(rollout.completions.ids.shape, device=rows.device) for _ in policies]
    for micro_batch, counts, _ in micro_batches(rollout, rows, passes):
        for policy, logprobs in zip(policies, scores, strict=True):
            _, result = policy(micro_batch)
            if counts:
                logprobs[micro_batch.row, micro_batch.column] = result.logprobs
    return scores


def prepare_rollout(
    policy: Policy,
    references: Sequence[Reference],
    batch: RolloutBatch,
    config: AdvantageConfig,
    passes: Passes,
    needs_old: bool,
) -> Rollout:
    """Compute everything about a scored batch that must not change during its updates."""
    completions, groups = batch.sampled(), Groups.of(batch)
    moments = passes.total(reward_moments(groups.rewards, groups.active))
    advantages = compute_advantages(groups.rewards, config, groups.active, moments)
    layout = policy.layout_for(batch.prompts.lengths.cpu(), completions.lengths.cpu())
    rollout = Rollout(batch.prompts, completions, advantages.flatten(), None, None, layout)
    scorers = [policy] * needs_old + list(references)
    if not scorers:
        return rollout
    scores = score_rows(scorers, rollout, groups.rows[groups.active], passes)
    return rollout._replace(old=scores[0] if needs_old else None, reference=scores[-1] if references else None)


def accumulate_gradient(
    policy: Policy, rollout: Rollout, rows: Tensor, weights: Tensor, config: SurrogateConfig, passes: Passes
) -> Gradient:
    """Add the gradient of −Σ_{i ∈ rows} w_i S_i to the policy's, one backward pass per micro-batch.

    Shapes: rows [n] int64, weights [N] = f_i / Z_i. The result does not depend on the budget.
    """
    meter = _Meter(rollout, weights, config)
    num_tokens = 0
    for micro_batch, counts, is_last in micro_batches(rollout, rows, passes):
        if config.is_elementwise:
            loss, scores = policy(micro_batch, partial(meter.token_loss, micro_batch))
        else:
            _, scores = policy(micro_batch)
            loss = meter.row_loss(micro_batch, scores.logprobs)
        meter.close(scores.entropy, counts)
        with passes.sync(is_last):
            passes.backward(loss * (passes.world_size * counts))
        num_tokens += micro_batch.num_tokens
    totals = merge_totals(meter.totals, {"model_tokens": torch.tensor(num_tokens, device=weights.device)})
    return Gradient(meter.surrogates, totals, num_tokens)


class _Meter:
    """Evaluates the loss of one micro-batch at a time, and keeps S_i and the totals of those that count."""

    def __init__(self, rollout: Rollout, weights: Tensor, config: SurrogateConfig) -> None:
        self.rollout, self.weights, self.config = rollout, weights, config
        self.surrogates = torch.zeros(len(weights), device=weights.device)
        self.totals: dict[str, Tensor] = {}
        self._open: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def token_loss(self, micro_batch: MicroBatch, logprobs: Tensor, place: slice) -> Tensor:
        """Loss of a chunk of tokens; elementwise, so the head can differentiate it in the same pass."""
        row, column = micro_batch.row[place], micro_batch.column[place]
        tokens = self._beside(logprobs, (row, column))
        terms = token_terms(tokens, None, self.rollout.advantages[row], self.weights[row], self.config)
        self._open.append((row, terms.surrogates, terms.statistics))
        return terms.loss

    def row_loss(self, micro_batch: MicroBatch, logprobs: Tensor) -> Tensor:
        """Loss of whole responses, for objectives that mix their tokens (sequence-level ratios and weights)."""
        rows = torch.unique(micro_batch.row)
        place = torch.searchsorted(rows, micro_batch.row), micro_batch.column
        shape = (len(rows), self.rollout.completions.ids.shape[1])
        mask = torch.zeros(shape, dtype=torch.bool, device=logprobs.device)
        mask[place] = True
        tokens = self._beside(logprobs.new_zeros(shape).index_put(place, logprobs), rows)
        output = policy_loss(tokens, mask, self.rollout.advantages[rows], self.weights[rows], self.config)
        self._open.append((rows, output.surrogates, output.statistics))
        return output.loss

    def _beside(self, logprobs: Tensor, index: Any) -> TokenLogprobs:
        """The policy's log-probabilities with those of the same tokens that the rollout holds."""
        old, reference = self.rollout.old, self.rollout.reference
        return TokenLogprobs(
            logprobs,
            None if old is None else old[index],
            None if reference is None else reference[index],
            self.rollout.completions.logprobs[index],
        )

    def close(self, entropy: Tensor, counts: bool) -> None:
        """Add the micro-batch just evaluated to the totals, if it counts."""
        for rows, surrogates, statistics in self._open if counts else ():
            self.surrogates.index_add_(0, rows, surrogates)
            self.totals = merge_totals(self.totals, statistics)
        if counts:
            self.totals = merge_totals(self.totals, {"entropy": entropy.detach().sum()})
        self._open.clear()
