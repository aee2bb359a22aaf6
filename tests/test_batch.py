"""What every callback asks of the batch: its slots, and which groups teach nothing."""

import pytest
import torch

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.errors import UserError


def scored(total: list[list[float]], correct: list[list[bool]], active: list[list[bool]] | None = None) -> RolloutBatch:
    """Groups with the given rewards; what the tokens are does not matter."""
    num_prompts, group_size = len(total), len(total[0])
    rows = num_prompts * group_size
    prompts = Prompts(torch.ones(num_prompts, 1).long(), torch.ones(num_prompts).long(), ({},) * num_prompts)
    ones = torch.ones(rows, 1)
    completions = Completions(ones.long(), torch.ones(rows).long(), torch.zeros(rows).bool(), -ones)
    mask = torch.ones(rows).bool() if active is None else torch.tensor(active).flatten()
    rewards = Rewards(torch.tensor(total).flatten(), torch.tensor(correct).flatten(), mask, {})
    return RolloutBatch(prompts, completions=completions, rewards=rewards)


def test_an_empty_slot_names_the_callback_that_fills_it() -> None:
    batch = scored([[0.0, 1.0]], [[False, True]])
    batch.completions = batch.rewards = None
    with pytest.raises(UserError, match=r"no completions: add RolloutCallback to the trainer's callbacks"):
        batch.sampled()
    with pytest.raises(UserError, match=r"no rewards: add RewardCallback to the trainer's callbacks"):
        batch.scored()


def test_an_overlong_penalty_makes_a_wrong_group_uneven_in_total_but_flat_in_correctness() -> None:
    batch = scored([[0.0, -0.2], [0.0, 1.0], [1.0, 1.0]], [[False, False], [False, True], [True, True]])
    assert batch.flat_groups().tolist() == [False, False, True]
    assert batch.flat_groups("correct").tolist() == [True, False, True]


@pytest.mark.parametrize("metric", ["total", "correct"])
def test_inactive_responses_make_no_group_uneven(metric: str) -> None:
    batch = scored([[0.0, 1.0], [0.0, 1.0]], [[False, True], [False, True]], [[True, False], [False, False]])
    assert batch.flat_groups(metric).tolist() == [True, True]
