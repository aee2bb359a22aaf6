"""What FSDP2 holds beside the shards: weights and gradients that are whole for a while."""

from __future__ import annotations

from collections.abc import Iterator

from lambda_grpo_pl.planning.parts import Part
from lambda_grpo_pl.planning.run import PlannedRun
from lambda_grpo_pl.planning.sizes import ModelSize

GATHERED_LAYERS = 2
"""Layers whose weights are whole at a time: the one that computes, and the next one, which is prefetched."""
REDUCED_LAYERS = 2
"""Layers whose float32 gradients wait for their reduction at a time."""


def gathered_parts(run: PlannedRun, size: ModelSize) -> Iterator[Part]:
    """Yield what is gathered and reduced on each rank while micro-batches pass (FSDP2 alone).

    The root's weights stay whole from the forward to the end of the backward pass, since the head is at its end and
    the embedding at its beginning. The reduction of the root's gradient comes last, when activations are gone, so it
    does not add to the peak.
    """
    if run.placement.strategy != "fsdp2":
        return
    width = 2 if run.mixed_precision and not run.validation_rule else 4
    gathered = width * (size.root + GATHERED_LAYERS * size.layer)
    reduced = (width + 4) * REDUCED_LAYERS * size.layer
    yield Part("gathered weights", 0, gathered, 0, "embedding, head and two layers, whole")
    yield Part("gradients being reduced", 0, reduced, 0, "two layers, whole")
    if run.placement.offload:
        shard = 4 * size.layer * GATHERED_LAYERS / run.placement.shards
        yield Part("shards in transfer", 0, shard, 0)
