"""An update costs what it did when benchmarks/results/counts.json was made: counts, so any machine can tell."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDED = json.loads((BENCHMARKS / "results" / "counts.json").read_text())["counts"]


@pytest.fixture(scope="module")
def counts() -> dict[str, dict[str, int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import counts as script

        result: dict[str, dict[str, int]] = script.count_everything()
    for name in ("counts", "report", "workload"):
        sys.modules.pop(name)
    return result


@pytest.mark.parametrize("case", RECORDED)
def test_counts_are_the_recorded_ones(counts: dict[str, dict[str, int]], case: str) -> None:
    """`python benchmarks/counts.py` records new ones, if they changed for a reason."""
    measured = dict(counts[case])
    recorded = dict(RECORDED[case])
    if case == "decoding":  # what is drawn depends on rounding; what is wasted does not
        assert measured["decoded"] == measured["needed"]
        assert measured["prefilled"] == recorded["prefilled"]
    else:
        assert measured == recorded


def test_one_update_needs_no_old_logprobs(counts: dict[str, dict[str, int]]) -> None:
    assert counts["as shipped"]["scoring_passes"] == 0
    assert counts["two epochs"]["scoring_passes"] > 0


def test_the_reference_shares_the_micro_batches_of_the_old_policy(counts: dict[str, dict[str, int]]) -> None:
    assert counts["KL, two epochs"]["scoring_passes"] == 2 * counts["KL"]["scoring_passes"] > 0


def test_groups_with_equal_rewards_are_not_processed(counts: dict[str, dict[str, int]]) -> None:
    """6 groups of 32 earn equal rewards; with a KL term they must be processed all the same."""
    assert counts["as shipped"]["training_tokens"] < counts["every group"]["training_tokens"]
    assert counts["KL"]["training_tokens"] == counts["every group"]["training_tokens"]


def test_shared_prompts_and_packing_each_save_tokens(counts: dict[str, dict[str, int]]) -> None:
    shared, packed, padded = (
        counts[f"every group{layout}"]["training_tokens"] for layout in ("", ", packed", ", padded")
    )
    num_prompt_tokens, group_size = 18 * 32, 8
    assert (
        packed - shared >= (group_size - 2) * num_prompt_tokens
    )  # a group that a micro-batch splits has its prompt twice
    assert padded > packed


def test_the_length_preference_costs_one_parameter_and_no_pass(counts: dict[str, dict[str, int]]) -> None:
    ours, grpo = counts["as shipped"], counts["GRPO"]
    assert ours["trained_parameters"] == grpo["trained_parameters"] + 1
    assert {**ours, "trained_parameters": 0} == {**grpo, "trained_parameters": 0}
