"""The `validation` rule: what a virtual policy step, weighted by f, would do to held-out reward.

A step θ' = θ + η Σ_i (f_i / Z_i) ∇S_i changes the held-out objective by η Σ_i (f_i / Z_i) ⟨∇J_val, ∇S_i⟩ to first
order. So λ ascends the same sum as under the paper's rule with each S_i replaced by its *alignment* T_i = η ⟨∇J_val,
∇S_i⟩. One backward pass gives v = ∇J_val / ‖∇J_val‖; the N inner products come from two forward passes, S_i(θ ± εv),
as a central difference (DARTS, arXiv 1806.09055, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig, TokenLogprobs, count_tokens, policy_loss
from lambda_grpo_pl.policy import Policy, Reference
from lambda_grpo_pl.training.sharding import drop_gathered_weights, total_norm
from lambda_grpo_pl.training.update import Passes, Rollout, accumulate_gradient, prepare_rollout, score_rows

RELATIVE_STEP = 5e-7
"""First try at the length ε of the finite difference's step along v, as a share of the length ‖θ‖ of the weights."""
MOVES = (0.01, 0.04)
"""How far, in nats, ε may move the log-probability that it moves most. Below, rounding of float32 weights shows (1 % at
0.008 on SmolLM2-135M); above, curvature does (1 % at 0.05 on a tiny random model) and clipping (12 % at 0.33)."""
BEST_MOVE = 0.02
MOST_TRIES, MOST_HALVINGS = 4, 8
"""Bounds on the search for ε: where no log-probability moves, the weights must not be thrown far away."""


def float32_arithmetic(device: torch.device) -> torch.autocast:
    """Context in which the policy computes in float32 also under a mixed-precision trainer.

    The rule needs it throughout: two passes in bfloat16 differ by more than the finite difference is worth, and a
    bfloat16 gradient of J_val alone put the inner products on SmolLM2-135M off by 5 %. It costs time and, in the one
    backward pass, twice the memory for activations.
    """
    return torch.autocast(device.type, enabled=False)


class Validation(NamedTuple):
    """What the rule needs of one rollout and its held-out batch; does not change while the rollout is learned from."""

    rollout: Rollout
    """The training rollout, with `old` scored in float32: the ratio's denominator while the policy moves."""
    heldout: Rollout
    """The held-out rollout."""
    heldout_rows: Tensor
    """[n] int64 its active rows."""
    heldout_weights: Tensor
    """[N_val] w_j of J_val = Σ_j w_j S_j."""


def prepare_validation(
    policy: Policy,
    references: Sequence[Reference],
    rollout: Rollout,
    batch: RolloutBatch,
    config: AdvantageConfig,
    passes: Passes,
) -> Validation:
    """Compute what the rule keeps fixed for a rollout and a scored held-out batch; J_val weighs all tokens alike."""
    heldout = prepare_rollout(policy, references, batch, config, passes, needs_old=False)
    groups = Groups.of(batch)
    count = count_tokens(groups.lengths, groups.active, "global", passes.total)
    weights = groups.active.flatten() / count.denominator.float()
    rows = torch.arange(len(rollout.advantages), device=rollout.advantages.device)
    with float32_arithmetic(rows.device):
        (old,) = score_rows([policy], rollout, rows, passes)
    return Validation(rollout._replace(old=old), heldout, groups.rows[groups.active], weights)


def alignments(policy: Policy, validation: Validation, rows: Tensor, config: SurrogateConfig, passes: Passes) -> Tensor:
    """T_i = ⟨∇J_val, ∇S_i⟩ for `rows` of the rollout, [N] float32, 0 elsewhere; η is part of λ's learning rate.

    The policy's weights are restored bit for bit, and its gradient is left at None.
    """
    rollout, heldout, heldout_rows, heldout_weights = validation
    aligned = torch.zeros_like(rollout.advantages)
    with float32_arithmetic(rows.device):
        accumulate_gradient(policy, heldout, heldout_rows, heldout_weights, config, passes)
        direction = [(parameter, -parameter.grad) for parameter in policy.parameters() if parameter.grad is not None]
        policy.zero_grad()
        slope = float(total_norm(v for _, v in direction))
        if slope == 0.0:
            return aligned
        step = RELATIVE_STEP * float(total_norm(parameter for parameter, _ in direction))
        for _ in range(MOST_TRIES):
            ends = []
            for distance in (step, -step):
                with _displaced(policy, direction, distance / slope):
                    ends += score_rows([policy], rollout, rows, passes)
            above, below = (_surrogates(rollout, logprobs, config) for logprobs in ends)
            aligned[rows] = ((above - below) * (slope / (2 * step)))[rows]
            halvings = passes.agree(_count_halvings(ends[0] - ends[1]))
            if halvings == 0:
                break
            step *= 2.0**-halvings
    return aligned


def _count_halvings(difference: Tensor) -> int:
    """Return how often to halve ε, or to double it if negative; 0 if log-probabilities moved by a good amount.

    `difference` [N, L] lies between the two ends; rows that were not scored are 0 at both. Of several ranks, the one
    with the largest move decides.
    """
    move = float(difference.abs().max()) / 2
    smallest, largest = MOVES
    if smallest <= move <= largest:
        return 0
    if not math.isfinite(move):
        return MOST_HALVINGS
    return max(-MOST_HALVINGS, min(MOST_HALVINGS, round(math.log2(max(move, 1e-9) / BEST_MOVE))))


@contextmanager
def _displaced(policy: Policy, direction: list[tuple[torch.nn.Parameter, Tensor]], distance: float) -> Iterator[None]:
    """The policy with its weights moved by `distance` times the direction."""
    saved = [parameter.detach().clone() for parameter, _ in direction]
    try:
        with torch.no_grad():
            for parameter, towards in direction:
                parameter.add_(towards, alpha=distance)
        drop_gathered_weights(policy)
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), value in zip(direction, saved, strict=True):
                parameter.copy_(value)
        drop_gathered_weights(policy)


def _surrogates(rollout: Rollout, logprobs: Tensor, config: SurrogateConfig) -> Tensor:
    completions = rollout.completions
    columns = torch.arange(completions.ids.shape[1], device=logprobs.device)
    mask = columns < completions.lengths[:, None]
    tokens = TokenLogprobs(logprobs, rollout.old, rollout.reference, completions.logprobs)
    return policy_loss(tokens, mask, rollout.advantages, torch.ones_like(rollout.advantages), config).surrogates
