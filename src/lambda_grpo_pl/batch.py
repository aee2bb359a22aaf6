"""The one thing that flows: prompts → completions → rewards.

Legend for every shape in this package: **B** prompts, **G** responses per prompt (the group), **N = B·G** rows in
prompt-major order (row = b·G + g), **P** prompt tokens (left-padded), **L** response tokens (right-padded).
Lengths are in tokens, log-probabilities in nats, rewards have no dimension.

The loader makes a `RolloutBatch` whose `prompts` are set; `RolloutCallback` writes `completions`, `RewardCallback`
writes `rewards`, and `LambdaGRPO.training_step` reads all three. Advantages are not here: they belong to the
objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError

Metric = Literal["total", "correct"]
"""What a group's responses are compared by."""


class Prompts(NamedTuple):
    """B prompts as the policy reads them."""

    ids: Tensor
    """[B, P] int64 token ids, left-padded."""
    lengths: Tensor
    """[B] int64 number of prompt tokens, padding excluded."""
    examples: tuple[Mapping[str, Any], ...]
    """B dataset rows for the reward functions; `prompt` holds the text as sent to the policy, `answer` the gold."""

    def tokens(self, row: int) -> list[int]:
        """Prompt `row` without its padding."""
        ids: list[int] = self.ids[row, self.ids.shape[1] - int(self.lengths[row]) :].tolist()
        return ids


class Completions(NamedTuple):
    """N sampled responses."""

    ids: Tensor
    """[N, L] int64 token ids, right-padded."""
    lengths: Tensor
    """[N] int64 number of response tokens ℓ, the end-of-sequence token included, padding excluded."""
    truncated: Tensor
    """[N] bool: the response hit the length limit and has no end-of-sequence token."""
    logprobs: Tensor
    """[N, L] float32 log-probability (nats) of each token under the sampler; 0 at padding."""

    def tokens(self, row: int) -> list[int]:
        """Response `row` without its padding."""
        ids: list[int] = self.ids[row, : int(self.lengths[row])].tolist()
        return ids


class Rewards(NamedTuple):
    """What each response earned, before any comparison with its group (that is the advantage)."""

    total: Tensor
    """[N] float32 weighted sum of the parts: what trains."""
    correct: Tensor
    """[N] bool: the first (task) reward counts the answer as right; splits lengths on the dashboard."""
    active: Tensor
    """[N] bool: False leaves the response out of the loss and of its group's statistics (overlong filter, failed
    verifier)."""
    parts: dict[str, Tensor]
    """Each reward by name, [N] float32, unweighted."""
    verdicts: tuple[tuple[str, str | None], ...] = ()
    """N (status, extracted answer) of the first reward, for records; empty where they were not kept."""


@dataclass(slots=True)
class RolloutBatch:
    """Slots filled left to right: the loader, `RolloutCallback`, `RewardCallback`.

    Example with B = 1, G = 2: `prompts.ids` [1, 4], `completions.ids` [2, 6], `completions.lengths` = [6, 3],
    `rewards.total` = [1.0, 0.0].
    """

    prompts: Prompts
    """B prompts."""
    index: int = 0
    """Number of this batch in the run, counted from 0 across epochs and resumes; seeds sampling."""
    completions: Completions | None = None
    """N responses, or None before sampling."""
    rewards: Rewards | None = None
    """N rewards, or None before scoring."""
    heldout: RolloutBatch | None = None
    """A scored batch of held-out prompts on the updates where the `validation` rule tunes λ, else None."""

    @property
    def num_prompts(self) -> int:
        """B."""
        return len(self.prompts.examples)

    @property
    def group_size(self) -> int:
        """G, known once the completions are there."""
        return self.sampled().ids.shape[0] // self.num_prompts

    def sampled(self) -> Completions:
        """Return the completions. Raises `UserError` naming the callback to add if nothing has sampled them."""
        if self.completions is None:
            raise UserError(_missing("completions", "RolloutCallback"))
        return self.completions

    def scored(self) -> Rewards:
        """Return the rewards. Raises `UserError` naming the callback to add if nothing has scored the batch."""
        if self.rewards is None:
            raise UserError(_missing("rewards", "RewardCallback"))
        return self.rewards

    def flat_groups(self, metric: Metric = "total") -> Tensor:
        """[B] bool: the group's active responses all have the same total reward, or are all right or all wrong.

        Equal totals give no advantage. DAPO (2503.14476) filters by `correct`: with an overlong penalty, a group of
        wrong answers has unequal totals, which would train their lengths alone.
        """
        rewards = self.scored()
        values = rewards.total if metric == "total" else rewards.correct.float()
        values, active = values.view(self.num_prompts, -1), rewards.active.view(self.num_prompts, -1)
        lowest = values.masked_fill(~active, torch.inf).amin(1)
        highest = values.masked_fill(~active, -torch.inf).amax(1)
        return ~(highest > lowest)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Move every tensor in place; Lightning's device transfer then hands on this very object."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, dict):
                return {name: move(item) for name, item in value.items()}
            if isinstance(value, (Prompts, Completions, Rewards)):
                return type(value)(*(move(item) for item in value))
            return value

        self.prompts, self.completions, self.rewards = map(move, (self.prompts, self.completions, self.rewards))
        if self.heldout is not None:
            self.heldout.to(device, non_blocking)
        return self


def _missing(slot: str, callback: str) -> str:
    return f"The batch has no {slot}: add {callback} to the trainer's callbacks, before any callback that reads {slot}."


class Groups(NamedTuple):
    """The [B, G] view of one mini-batch: what f, Z and λ's gradient are made from."""

    rows: Tensor
    """int64 row of the rollout."""
    lengths: Tensor
    """int64 tokens."""
    active: Tensor
    """bool: counts in Z and in its group's statistics."""
    rewards: Tensor
    """float32"""
    correct: Tensor
    """bool"""
    prompt_lengths: Tensor
    """[B] int64 tokens."""

    @classmethod
    def of(cls, batch: RolloutBatch, prompts: slice = slice(None)) -> Groups:
        """View some prompts of a scored batch. An empty response is inactive."""
        shape = (batch.num_prompts, batch.group_size)
        completions = batch.sampled()
        rewards = batch.scored()
        rows = torch.arange(shape[0] * shape[1], device=rewards.total.device)
        active = rewards.active & (completions.lengths > 0)
        flat = (rows, completions.lengths, active, rewards.total, rewards.correct)
        views = [tensor.view(shape)[prompts] for tensor in flat]
        return cls._make([*views, batch.prompts.lengths[prompts]])
