"""One update's forward and backward without a step: as much memory as a real one, and no trace of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.policy import Policy, Reference
from lambda_grpo_pl.training.config import ObjectiveConfig
from lambda_grpo_pl.training.update import Passes, accumulate_gradient, prepare_rollout

NUM_MOMENTS = 2
"""AdamW's states per parameter, which its first step allocates; the rehearsal holds as much."""


def rehearse_update(
    policy: Policy,
    references: Sequence[Reference],
    batch: RolloutBatch,
    objective: ObjectiveConfig,
    passes: Passes,
    needs_old: bool,
) -> None:
    """Accumulate the gradient of a scored batch, every row of it, beside what AdamW will hold, and drop it.

    No gradient is exchanged under DDP: its buckets exist already, and its first exchange would reorder them.
    """
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    moments = [torch.empty_like(parameter) for parameter in trainable for _ in range(NUM_MOMENTS)]
    rollout = prepare_rollout(policy, references, batch, objective.advantage, passes, needs_old)
    weights = torch.full_like(rollout.advantages, 1 / float(batch.sampled().lengths.sum()))
    rows = Groups.of(batch).rows.flatten()
    try:
        accumulate_gradient(policy, rollout, rows, weights, objective.surrogate, passes)
    finally:
        for parameter in trainable:
            parameter.grad = None
    del moments
