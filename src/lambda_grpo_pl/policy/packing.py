"""Rows of a rollout as micro-batches of real tokens, with the prompt shared by its group where that pays.

`plan_micro_batches` decides which rows go together (longest first, to a token budget); `pack` and `pad` lay them out
for one forward pass. The last token of a response predicts nothing, so it is never an input.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.policy.segments import AttentionLayout

Layout = Literal["packed", "shared_prefix", "padded"]
"""How a forward pass holds rows: end to end, end to end after a prompt that their group shares, or padded."""
ALL: tuple[Layout, ...] = ("packed", "shared_prefix", "padded")
PADDED: tuple[Layout, ...] = ("padded",)


class MicroBatch(NamedTuple):
    """One forward pass over n rows: the model's inputs and where its response tokens are."""

    input_ids: Tensor
    """[1, T] packed or [n, T] padded, int64."""
    position_ids: Tensor
    """Same shape: position of each token in its own row."""
    layout: AttentionLayout | None
    """Who sees whom, if packed."""
    attention_mask: Tensor | None
    """[n, T] int64, 1 = real, if padded."""
    predictor: Tensor
    """[M] int64 flat position of the hidden state that predicts each response token."""
    labels: Tensor
    """[M] int64 the response tokens, row by row."""
    row: Tensor
    """[M] int64 row of the rollout (0 ≤ row < N) each response token belongs to."""
    column: Tensor
    """[M] int64 place of each token in its response."""

    @property
    def num_tokens(self) -> int:
        """Tokens that pass through the model, padding included."""
        return self.input_ids.numel()


def plan_micro_batches(
    rows: Tensor, prompt_lengths: Tensor, lengths: Tensor, budget: int, layout: Layout
) -> list[Tensor]:
    """Split `rows` [n] into micro-batches of at most `budget` tokens each.

    Shapes: prompt_lengths [B], lengths [N], both int64 on the CPU. Packed and padded rows go longest first, so that
    rows of a micro-batch are alike; padding counts. With a shared prefix the rows of a group stay together as long as
    they fit, and the prompt counts once a micro-batch. A row longer than the budget becomes a separate micro-batch.
    """
    group_size = len(lengths) // len(prompt_lengths)
    group = rows // group_size
    num_prompt = prompt_lengths[group]
    cost = num_prompt + (lengths[rows] - 1).clamp(min=0)
    order = torch.argsort(group if layout == "shared_prefix" else -cost, stable=True)
    batches: list[list[int]] = []
    filled, last_group, widest = 0, -1, 0
    for place in order.tolist():
        alone = int(cost[place])
        extra = widest if layout == "padded" else alone
        if layout == "shared_prefix" and int(group[place]) == last_group:
            extra = alone - int(num_prompt[place])
        if not batches or filled + extra > budget:
            batches.append([])
            filled, extra, widest = 0, alone, alone
        batches[-1].append(int(rows[place]))
        filled += extra
        last_group = int(group[place])
    return [torch.tensor(sorted(batch)) for batch in batches]


def prefix_pays(prompt_lengths: Tensor, lengths: Tensor) -> bool:
    """Whether computing each prompt once a group saves more than a fifth of the tokens."""
    group_size = len(lengths) // len(prompt_lengths)
    saved = (group_size - 1) * int(prompt_lengths.sum())
    return saved > 0.2 * (int(lengths.sum()) + group_size * int(prompt_lengths.sum()))


def _response_tokens(completions: Completions, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and label [M] of every response token of `rows`, row by row."""
    columns = torch.arange(completions.ids.shape[1], device=rows.device)
    place, column = torch.nonzero(columns < completions.lengths[rows, None], as_tuple=True)
    row = rows[place]
    return row, column, completions.ids[row, column]


def lay_out(prompts: Prompts, completions: Completions, rows: Tensor, layout: Layout) -> MicroBatch:
    """Lay `rows` [n] out for one forward pass."""
    if layout == "padded":
        return pad(prompts, completions, rows)
    return pack(prompts, completions, rows, share_prefix=layout == "shared_prefix")


def pad(prompts: Prompts, completions: Completions, rows: Tensor) -> MicroBatch:
    """Lay `rows` [n] out as [n, T], right-padded: the fallback for models whose attention cannot be packed."""
    group_size = completions.ids.shape[0] // prompts.ids.shape[0]
    group = rows // group_size
    num_prompt, num_response = prompts.lengths[group], completions.lengths[rows]
    width = int((num_prompt + (num_response - 1).clamp(min=0)).max())
    position = torch.arange(width, device=rows.device).expand(len(rows), -1)
    both = torch.cat([prompts.ids[group], completions.ids[rows]], dim=1)
    source = position + (prompts.ids.shape[1] - num_prompt)[:, None]
    real = position < (num_prompt + (num_response - 1).clamp(min=0))[:, None]
    input_ids = both.gather(1, source.clamp(max=both.shape[1] - 1)) * real
    row, column, labels = _response_tokens(completions, rows)
    place = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), num_response)
    predictor = place * width + num_prompt[place] + column - 1
    return MicroBatch(input_ids, position, None, real.long(), predictor, labels, row, column)


def pack(prompts: Prompts, completions: Completions, rows: Tensor, share_prefix: bool) -> MicroBatch:
    """Lay `rows` [n] out as one row of real tokens, [1, T].

    Without `share_prefix` a segment is a prompt with its response. With it, each prompt is one segment, followed by the
    responses of its group, which see the prompt but not each other; positions restart after the prompt.
    """
    group_size = completions.ids.shape[0] // prompts.ids.shape[0]
    group = rows // group_size
    row, column, labels = _response_tokens(completions, rows)
    inputs = (completions.lengths[rows] - 1).clamp(min=0)
    prefixes, owner = torch.unique(group, return_inverse=True) if share_prefix else (group, torch.arange(len(rows)))
    owner = owner.to(rows.device)
    num_prompt = prompts.lengths[prefixes]
    segments = _interleave(num_prompt, owner, inputs) if share_prefix else _join(num_prompt, inputs)
    input_ids = torch.empty(segments.num_tokens, dtype=torch.int64, device=rows.device)
    position_ids = torch.empty_like(input_ids)

    width = prompts.ids.shape[1]
    index = torch.arange(width, device=rows.device)
    which, place = torch.nonzero(index < num_prompt[:, None], as_tuple=True)
    target = segments.prompt_start[which] + place
    input_ids[target] = prompts.ids[prefixes[which], width - num_prompt[which] + place]
    position_ids[target] = place

    place = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), completions.lengths[rows])
    is_input = column < inputs[place]
    target = (segments.response_start[place] + column)[is_input]
    input_ids[target] = labels[is_input]
    position_ids[target] = (num_prompt[owner[place]] + column)[is_input]

    last_of_prompt = (segments.prompt_start + num_prompt - 1)[owner[place]]
    predictor = torch.where(column == 0, last_of_prompt, segments.response_start[place] + column - 1)
    return MicroBatch(input_ids[None], position_ids[None], segments.layout, None, predictor, labels, row, column)


class _Segments(NamedTuple):
    prompt_start: Tensor
    """[number of prompts laid out] where each prompt begins."""
    response_start: Tensor
    """[n] where each response begins."""
    layout: AttentionLayout
    num_tokens: int


def _join(num_prompt: Tensor, num_response: Tensor) -> _Segments:
    """Each row one segment: its prompt, then its response."""
    length = num_prompt + num_response
    start = length.cumsum(0) - length
    none = torch.zeros_like(start)
    return _Segments(start, start + num_prompt, AttentionLayout(none, none, start, length), int(length.sum()))


def _interleave(num_prompt: Tensor, owner: Tensor, num_response: Tensor) -> _Segments:
    """Each prompt a segment, then the responses it owns (`owner` [n] is sorted), each with the prompt as prefix."""
    num_prompts = len(num_prompt)
    length = torch.cat([num_prompt, num_response])
    group = torch.cat([torch.arange(num_prompts, device=owner.device), owner])
    order = torch.argsort(group, stable=True)  # a prompt comes before its responses: it stands first in `length`
    start = torch.empty_like(length)
    start[order] = length[order].cumsum(0) - length[order]
    prefix_length = torch.cat([torch.zeros_like(num_prompt), num_prompt[owner]])
    prefix_start = torch.cat([torch.zeros_like(num_prompt), start[:num_prompts][owner]])
    layout = AttentionLayout(prefix_start[order], prefix_length[order], start[order], length[order])
    return _Segments(start[:num_prompts], start[num_prompts:], layout, int(length.sum()))
