"""The dashboard's scalars by hand, on one rank and on two."""

import torch
from torch import Tensor

from lambda_grpo_pl.training.token_metrics import (
    EXTREMES,
    TOKEN_MEANS,
    TOKEN_SUMS,
    UpdateStatistics,
    merge_totals,
    summarize_tokens,
    summarize_updates,
)

CPU = torch.device("cpu")


def tensors(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def alone(vector: Tensor, how: str) -> Tensor:
    return vector


def test_sums_add_up_and_extremes_are_extremes() -> None:
    totals = tensors(kl=1, ratio_min=0.5, ratio_max=2)
    assert numbers(merge_totals(totals, tensors(kl=2, ratio_min=0.7, ratio_max=3, clip_low=4))) == {
        "kl": 3,
        "ratio_min": 0.5,
        "ratio_max": 3,
        "clip_low": 4,
    }
    assert numbers(merge_totals(totals, tensors(ratio_min=0.25, ratio_max=1)))["ratio_min"] == 0.25
    assert numbers(totals) == {"kl": 1, "ratio_min": 0.5, "ratio_max": 2}, "left as it was"
    assert merge_totals({}, totals).keys() == totals.keys()


def test_token_means_sums_and_extremes_over_two_ranks() -> None:
    """The other rank trained on 6 tokens, and its ratios reach further."""
    mine = tensors(num_tokens=2, model_tokens=10, entropy=1, kl=4, ratio_min=0.5, ratio_max=1.5)
    theirs = tensors(num_tokens=6, model_tokens=30, entropy=7, ratio_min=0.25, ratio_max=2)
    sent: list[tuple[str, Tensor]] = []
    summarize_tokens(theirs, CPU, lambda vector, how: sent.append((how, vector)) or vector)
    others = iter(sent)

    def reduce(vector: Tensor, how: str) -> Tensor:
        expected, other = next(others)
        assert how == expected
        return vector + other if how == "sum" else torch.maximum(vector, other)

    summary = numbers(summarize_tokens(mine, CPU, reduce))
    extremes = {EXTREMES["ratio_min"]: 0.25, EXTREMES["ratio_max"]: 2}
    means = dict.fromkeys(TOKEN_MEANS.values(), 0.0) | {TOKEN_MEANS["entropy"]: 1, TOKEN_MEANS["kl"]: 0.5}
    assert summary == means | extremes | {TOKEN_SUMS["num_tokens"]: 8, TOKEN_SUMS["model_tokens"]: 40}
    assert [how for how, _ in sent] == ["sum", "max"]


def test_a_rank_without_tokens_leaves_the_extremes_of_the_others() -> None:
    theirs = torch.tensor([-0.25, 2.0, 0.5])
    summary = summarize_tokens({}, CPU, lambda vector, how: torch.maximum(vector, theirs) if how == "max" else vector)
    extremes = dict(zip(EXTREMES.values(), (0.25, 2.0, 0.5), strict=True))
    assert {name: value for name, value in numbers(summary).items() if name in extremes} == extremes


def test_ranks_without_tokens_summarize_to_zero_and_a_single_token_to_itself() -> None:
    summary = summarize_tokens({}, CPU, alone)
    assert set(numbers(summary).values()) == {0.0}
    assert not summary.keys() & set(EXTREMES.values())
    assert numbers(summarize_tokens(tensors(num_tokens=1, entropy=3), CPU, alone))["policy/entropy"] == 3


def test_updates_are_averaged_and_lambda_and_the_learning_rate_are_the_latest() -> None:
    first = UpdateStatistics(
        tensors(num_tokens=1, entropy=1),
        {"lambda": torch.tensor(1.0, dtype=torch.float64), "ess": torch.tensor(0.5)},
        {"policy/learning_rate": torch.tensor(0.1), "policy/gradient_norm": torch.tensor(2.0)},
    )
    second = UpdateStatistics(
        tensors(num_tokens=3, entropy=7),
        {"lambda": torch.tensor(3.0, dtype=torch.float64), "ess": torch.tensor(1.0)},
        {"policy/learning_rate": torch.tensor(0.25), "policy/gradient_norm": torch.tensor(4.0)},
    )
    asked: list[str] = []

    def reduce(vector: Tensor, how: str) -> Tensor:
        asked.append(how)
        assert vector.dtype == torch.float32
        return 10 * vector if how == "mean" else vector

    summary = numbers(summarize_updates([first, second], CPU, reduce))
    assert asked == ["sum", "max", "mean"]
    assert summary["policy/entropy"] == 2
    assert (summary["preference/lambda"], summary["preference/ess"]) == (30, 7.5), "averaged over ranks"
    assert (summary["policy/learning_rate"], summary["policy/gradient_norm"]) == (0.25, 3), "the same on every rank"
    single = numbers(summarize_updates([first], CPU, alone))
    assert (single["preference/lambda"], single["preference/ess"], single["policy/gradient_norm"]) == (1, 0.5, 2)
