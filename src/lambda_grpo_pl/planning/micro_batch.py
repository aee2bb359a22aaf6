"""The largest micro-batch of a run: how many of its longest rows go into one pass."""

from __future__ import annotations

import torch

from lambda_grpo_pl.planning.run import PlannedRun
from lambda_grpo_pl.planning.tracing import PassShape
from lambda_grpo_pl.policy.packing import Layout


def largest_micro_batch(run: PlannedRun, mixed_precision: bool | None = None) -> PassShape:
    """Return the pass that takes the most memory.

    Its tokens are the budget or one longest row, whichever is more, and at most those of an update. As many of them as
    possible are response tokens, since only those pass through the head.
    """
    mixed = run.mixed_precision if mixed_precision is None else mixed_precision
    rows_per_update = max(1, run.training.num_rows // run.num_minibatches)
    longest, response = run.training.longest_row, run.training.response_tokens
    budget = max(run.token_budget, longest)
    num_rows = max(1, min(rows_per_update, budget // (response + 1)))
    prompt = min(run.training.prompt_tokens, max(1, budget // num_rows - response))
    total = rows_per_update * longest
    return PassShape(
        num_rows=num_rows,
        prompt_tokens=prompt,
        response_tokens=response,
        layout=_layout(run),
        weights=weights_dtype(run, mixed),
        autocast=mixed,
        accumulates=total > budget,
        fused=run.fused,
    )


def weights_dtype(run: PlannedRun, mixed: bool) -> torch.dtype:
    """Type in which a pass finds most weights: FSDP2 gathers them rounded, and LoRA's base is stored so."""
    if not mixed:
        return torch.float32
    if run.policy.lora is not None:
        return run.policy.lora.resolve_base_dtype(torch.bfloat16)
    return torch.bfloat16 if run.placement.strategy == "fsdp2" else torch.float32


def _layout(run: PlannedRun) -> Layout:
    """Packed where `auto` decides later: a shared prompt makes a pass no larger."""
    return "packed" if run.policy.packing == "auto" else run.policy.packing
