"""Random groups for the property tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

MAX_LENGTH = 3000


def for_all(**arguments: st.SearchStrategy) -> Callable[[Any], Any]:
    """Hypothesis' `given` with few, repeatable examples, so that the whole set takes seconds."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    few = settings(max_examples=40, deadline=None, derandomize=True, phases=phases)
    return lambda test: few(given(**arguments)(test))


class Group(NamedTuple):
    """Lengths and who counts, with rewards and surrogates to go with them."""

    lengths: Tensor
    """[B, G] int64"""
    active: Tensor
    """[B, G] bool"""
    rewards: Tensor
    """[B, G] float64"""
    surrogates: Tensor
    """[B, G] float64"""


@st.composite
def groups(draw: st.DrawFn, min_size: int = 1, all_active: bool = False) -> Group:
    """1–3 prompts with 1–8 responses of 0–3000 tokens, some inactive, in rare cases all of a group."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(min_size, 8)))
    num_rows = shape[0] * shape[1]

    def table(values: st.SearchStrategy, dtype: torch.dtype) -> Tensor:
        return torch.tensor(draw(st.lists(values, min_size=num_rows, max_size=num_rows)), dtype=dtype).view(shape)

    lengths = table(st.integers(0, MAX_LENGTH) | st.integers(0, 3), torch.int64)
    active = table(st.booleans() | st.just(True), torch.bool) | all_active
    rewards = table(st.sampled_from([0.0, 0.1, 0.5, 1.0, -1.0]), torch.float64)
    return Group(lengths, active, rewards, table(st.floats(-50, 50), torch.float64))
