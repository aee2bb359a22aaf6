"""The `validation` rule: what a virtual policy step, weighted by f, would do to held-out reward.

A step θ' = θ + η Σ_i (f_i / Z_i) ∇S_i changes the held-out objective by η Σ_i (f_i / Z_i) ⟨∇J_val, ∇S_i⟩ to first
order. So λ ascends the same sum as under the paper's rule with each S_i replaced by its *alignment* T_i = η ⟨∇J_val,
∇S_i⟩. One backward pass gives v = ∇J_val / ‖∇J_val‖; the N inner products come from two forward passes, S_i(θ ± εv),
as a central difference (DARTS, arXiv 1806.09055, section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lambda_grpo_pl.objective import SurrogateConfig, TokenLogprobs, policy_loss
from lambda_grpo_pl.policy import Policy
from lambda_grpo_pl.training.update import Passes, Rollout, accumulate_gradient, score_rows

EPSILON = 0.01
"""Length of the finite-difference step along v; DARTS takes the same."""


def alignments(
    policy: Policy,
    rollout: Rollout,
    rows: Tensor,
    heldout: Rollout,
    heldout_rows: Tensor,
    heldout_weights: Tensor,
    config: SurrogateConfig,
    passes: Passes,
) -> Tensor:
    """T_i = ⟨∇J_val, ∇S_i⟩ for `rows` of the rollout, [N] float32, 0 elsewhere; η is part of λ's learning rate.

    J_val = Σ_j w_j S_j over `heldout_rows` with `heldout_weights` [N_val]. `rollout.old` must be set: the ratio's
    denominator stays at θ while the policy moves. The policy's weights come back bit for bit and its gradient is left
    at None.
    """
    assert rollout.old is not None
    accumulate_gradient(policy, heldout, heldout_rows, heldout_weights, config, passes)
    direction = [(p, -p.grad) for p in policy.parameters() if p.grad is not None]
    policy.zero_grad()
    norm = torch.nn.utils.get_total_norm([v for _, v in direction])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if float(norm) == 0.0:
        return torch.zeros_like(rollout.advantages)
    ends = []
    for sign in (1.0, -1.0):
        with _moved(direction, sign * EPSILON / float(norm)):
            (logprobs,) = score_rows([policy], rollout, rows, passes)
        ends.append(_surrogates(rollout, logprobs, config))
    aligned = torch.zeros_like(rollout.advantages)
    aligned[rows] = ((ends[0] - ends[1]) * (norm / (2 * EPSILON)))[rows]
    return aligned


@contextmanager
def _moved(direction: list[tuple[torch.nn.Parameter, Tensor]], distance: float) -> Iterator[None]:
    saved = [parameter.detach().clone() for parameter, _ in direction]
    with torch.no_grad():
        for parameter, towards in direction:
            parameter.add_(towards, alpha=distance)
        yield
        for (parameter, _), value in zip(direction, saved, strict=True):
            parameter.copy_(value)


def _surrogates(rollout: Rollout, logprobs: Tensor, config: SurrogateConfig) -> Tensor:
    completions = rollout.completions
    columns = torch.arange(completions.ids.shape[1], device=logprobs.device)
    mask = columns < completions.lengths[:, None]
    tokens = TokenLogprobs(logprobs, rollout.old, rollout.reference, completions.logprobs)
    return policy_loss(tokens, mask, rollout.advantages, torch.ones_like(rollout.advantages), config).surrogates
