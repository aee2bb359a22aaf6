from __future__ import annotations

import pytest
import torch

from lambda_grpo_pl.objective.group_math import active_mask, group_mean, group_size, group_std

VALUES = torch.tensor([[1.0, 3.0, 8.0], [5.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
ACTIVE = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def test_sizes_and_means_count_active_responses_in_float64() -> None:
    assert group_size(ACTIVE).tolist() == [[2.0], [1.0], [1.0]]
    assert group_size(ACTIVE).dtype == torch.float64
    assert group_mean(VALUES, ACTIVE).tolist() == [[2.0], [5.0], [0.0]]


@pytest.mark.parametrize(("unbiased", "pair"), [(True, 2**0.5), (False, 1.0)])
def test_the_std_of_a_single_response_is_zero_and_not_nan(unbiased: bool, pair: float) -> None:
    std = group_std(VALUES.double(), ACTIVE, unbiased=unbiased)
    torch.testing.assert_close(std, torch.tensor([[pair], [0.0], [0.0]], dtype=torch.float64))


def test_numbers_serve_as_a_mask() -> None:
    """The complement of a mask of ones and zeros must be a mask too."""
    assert active_mask(VALUES, ACTIVE.long()).dtype == torch.bool
    assert torch.equal(active_mask(VALUES, ACTIVE.float()), ACTIVE)
    assert active_mask(VALUES, None).all()
