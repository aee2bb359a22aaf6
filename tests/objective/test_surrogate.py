from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import (
    SurrogateConfig,
    TokenLogprobs,
    clipped_surrogate,
    importance_weights,
    kl_penalty,
    sequence_log_ratio,
    token_surrogate,
    token_terms,
)

CLIP_HIGHER = SurrogateConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "flag"),
    [
        (1.0, 2.0, 2.0, 2.0, None),
        (1.5, 2.0, 2.56, 0.0, "high"),
        (1.25, 2.0, 2.5, 2.5, None),
        (0.5, 2.0, 1.0, 1.0, None),
        (1.5, -2.0, -3.0, -3.0, None),
        (0.5, -2.0, -1.6, 0.0, "low"),
        (4.0, -2.0, -6.0, 0.0, "dual"),
        (0.5, 0.0, 0.0, 0.0, None),
        (1.5, 0.0, 0.0, 0.0, None),
        (4.0, 0.0, 0.0, 0.0, None),
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, value: float, slope: float, flag: str | None) -> None:
    """Value, d/d log-ratio and flag on every side of the clip, ε = 0.2/0.28, c = 3."""
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    surrogate, flags = clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), CLIP_HIGHER)
    assert surrogate.item() == pytest.approx(value)
    surrogate.sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == pytest.approx(slope)
    assert {name for name, raised in flags._asdict().items() if raised} == ({flag} - {None})


@pytest.mark.parametrize(("ratio", "advantage"), [(0.5, -1.0), (2.0, 1.0), (4.0, -1.0)])
def test_a_ratio_exactly_at_a_limit_is_not_clipped(ratio: float, advantage: float) -> None:
    config = SurrogateConfig(clip_low=0.5, clip_high=1.0, dual_clip=4.0)
    log_ratio = torch.tensor([ratio], dtype=torch.float64).log()
    assert log_ratio.exp().item() == ratio
    _, flags = clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), config)
    assert not any(flags)


def test_without_a_dual_clip_a_negative_advantage_is_unbounded() -> None:
    surrogate, flags = clipped_surrogate(torch.tensor([5.0]), torch.tensor([-1.0]), SurrogateConfig())
    assert surrogate.item() == pytest.approx(-math.exp(5), rel=1e-6)
    assert not flags.dual.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_ratios_stay_finite(dtype: torch.dtype) -> None:
    """±1000 nats and −inf (a token the policy excludes); up to 80 nats nothing is clamped."""
    log_ratio = torch.tensor([-math.inf, -1000.0, 79.0, 1000.0], dtype=dtype, requires_grad=True)
    for advantage in (-1.0, 1.0):
        surrogate, _ = clipped_surrogate(log_ratio, torch.tensor(advantage, dtype=dtype), SurrogateConfig())
        assert surrogate.isfinite().all()
        (grad,) = torch.autograd.grad(surrogate.sum(), log_ratio)
        assert grad.isfinite().all()
        if advantage < 0:
            torch.testing.assert_close(surrogate[3], -torch.tensor(80.0, dtype=dtype).exp())
            torch.testing.assert_close(surrogate[2], -torch.tensor(79.0, dtype=dtype).exp())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_extreme_kl_estimates_stay_finite(estimator: Any, shift: float) -> None:
    policy = torch.tensor([-1.0], requires_grad=True)
    other = policy.detach() + shift
    config = SurrogateConfig(kl_estimator=estimator, kl_correction=True)
    for ref, old in ((other, policy.detach()), (policy.detach(), other)):
        estimate = kl_penalty(policy, ref, old, config)
        assert estimate.isfinite().all()
        assert torch.autograd.grad(estimate.sum(), policy)[0].isfinite().all()


def categorical(seed: int) -> Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def exact_kl(policy: Tensor, ref: Tensor) -> Tensor:
    return (policy.exp() * (policy - ref)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_are_unbiased(estimator: Any) -> None:
    """Their expectation under the policy, enumerated over a vocabulary of six, is the KL."""
    policy, ref = categorical(0), categorical(1)
    estimate = kl_penalty(policy, ref, policy, SurrogateConfig(kl_estimator=estimator))
    torch.testing.assert_close((policy.exp() * estimate).sum(), exact_kl(policy, ref))
    assert estimator == "k1" or (estimate >= 0).all()


def test_k2_has_the_gradient_of_the_kl() -> None:
    """E[∇ k2] = ∇ KL under the policy's own samples."""
    logits = categorical(0).requires_grad_()
    policy, ref = logits.log_softmax(-1), categorical(1)
    (expected,) = torch.autograd.grad(exact_kl(policy, ref), logits, retain_graph=True)
    estimate = kl_penalty(policy, ref, policy.detach(), SurrogateConfig(kl_estimator="k2"))
    (grad,) = torch.autograd.grad((policy.detach().exp() * estimate).sum(), logits)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_corrected_kl_is_unbiased_off_policy(estimator: Any) -> None:
    """Samples from another policy: value and gradient are those of the KL; without the correction they are not."""
    logits = categorical(0).requires_grad_()
    policy, ref, old = logits.log_softmax(-1), categorical(1), categorical(2)
    truth = exact_kl(policy, ref)
    (expected,) = torch.autograd.grad(truth, logits, retain_graph=True)
    for corrected in (True, False):
        config = SurrogateConfig(kl_estimator=estimator, kl_correction=corrected)
        value = (old.exp() * kl_penalty(policy, ref, old, config)).sum()
        (grad,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert torch.allclose(value, truth) == corrected
        assert torch.allclose(grad, expected) == corrected


def test_the_penalty_lowers_the_surrogate() -> None:
    """`s = clipped − β·kl`: the gradient pulls the policy towards the reference."""
    policy = torch.tensor([-1.0], requires_grad=True)
    ref, zero = torch.tensor([-2.0]), torch.tensor([0.0])
    tokens = token_surrogate(policy, None, ref, None, zero, SurrogateConfig(kl_coef=0.5))
    assert tokens.kl.item() == pytest.approx(math.exp(-1))
    assert tokens.value.item() == pytest.approx(-0.5 * math.exp(-1))
    tokens.value.sum().backward()
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-0.5 * (1 - math.exp(-1)))


def test_one_token_by_hand() -> None:
    """Ratio e^0.1 against the old policy; on-policy the ratio is 1 and the gradient A; without a KL term kl is 0."""
    policy, old = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.1])
    advantages = torch.tensor([2.0])
    tokens = token_surrogate(policy, old, None, None, advantages, SurrogateConfig())
    assert tokens.value.item() == pytest.approx(2 * math.exp(0.1))
    assert tokens.log_ratio.item() == pytest.approx(0.1)
    on_policy = token_surrogate(policy, None, None, None, advantages, SurrogateConfig())
    assert torch.autograd.grad(on_policy.value.sum(), policy)[0].item() == on_policy.value.item() == 2
    weighted = token_surrogate(policy, None, None, torch.tensor([0.5]), advantages, SurrogateConfig())
    assert weighted.value.item() == 1
    for result in (tokens, on_policy):
        assert result.kl.tolist() == [0.0]
    with_kl = token_surrogate(policy, None, old, None, advantages, SurrogateConfig(kl_coef=0.1))
    assert with_kl.value.requires_grad
    assert not with_kl.kl.requires_grad
    assert not with_kl.log_ratio.requires_grad


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("policy_type", [torch.bfloat16, torch.float32, torch.float64])
def test_the_policys_precision_decides(policy_type: torch.dtype, other: torch.dtype) -> None:
    """At least float32, whatever the precision of the rest, and the policy is widened before anything is computed."""
    expected = torch.promote_types(policy_type, torch.float32)
    policy, rest = torch.tensor([-1.03], dtype=policy_type), torch.tensor([[-1.5]] * 3, dtype=other)
    config = SurrogateConfig(kl_coef=0.1, is_correction="truncate")
    advantages = torch.ones(1, dtype=other)
    tokens = token_surrogate(policy, rest[0], rest[1], None, advantages, config)
    assert tokens.value.dtype == tokens.kl.dtype == tokens.log_ratio.dtype == expected
    wide = token_surrogate(policy.to(expected), *rest[:2].to(expected), None, advantages.to(expected), config)
    assert torch.equal(tokens.value, wide.value)
    weights = importance_weights(policy.to(expected), rest[2], torch.ones(1), config)
    assert weights is not None
    assert weights.dtype == expected


def test_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        token_surrogate(torch.zeros(1), None, None, None, torch.ones(1), SurrogateConfig(kl_coef=0.1))


def test_sequence_ratio_is_the_geometric_mean_over_the_mask() -> None:
    log_ratio = torch.tensor([[0.2, 9.0, 0.4], [9.0, 0.7, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(sequence_log_ratio(log_ratio, mask), torch.tensor([[0.3], [0.7], [0.0]]))


@pytest.mark.parametrize(
    ("correction", "level", "expected"),
    [
        ("truncate", "token", [[1.5, 2.0, 0.5]]),
        ("mask", "token", [[1.5, 0.0, 0.5]]),
        ("truncate", "sequence", [[2.0]]),
        ("mask", "sequence", [[0.0]]),
    ],
)
def test_importance_weights_by_hand(correction: Any, level: Any, expected: list[list[float]]) -> None:
    """Ratios 1.5, 4 and 0.5 (product 3) under a cap of 2."""
    old = torch.tensor([[1.5, 4.0, 0.5]]).log().requires_grad_()
    config = SurrogateConfig(is_correction=correction, is_level=level, is_cap=2.0)
    weights = importance_weights(old, torch.zeros(1, 3), torch.ones(1, 3), config)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert not weights.requires_grad


def test_importance_weights_leave_out_what_is_outside_the_mask() -> None:
    old, mask = torch.tensor([[1.5, 4.0, 0.5]]).log(), torch.tensor([[1, 0, 1]])
    for level, expected in (("token", [[1.5, 1.0, 0.5]]), ("sequence", [[0.75]])):
        config = SurrogateConfig(is_correction="truncate", is_level=level)
        weights = importance_weights(old, torch.zeros(1, 3), mask, config)
        torch.testing.assert_close(weights, torch.tensor(expected))


def test_importance_weights_at_the_cap_are_kept_and_are_finite_without_a_cap() -> None:
    old, sampler, mask = torch.tensor([[math.log(2.0), 1000.0]]), torch.zeros(1, 2), torch.ones(1, 2)
    weights = importance_weights(old, sampler, mask, SurrogateConfig(is_correction="mask", is_cap=2.0))
    assert weights is not None
    assert weights.tolist() == [[2.0, 0.0]]
    for correction in ("mask", "truncate"):
        free = importance_weights(old, sampler, mask, SurrogateConfig(is_correction=correction, is_cap=math.inf))
        assert free is not None
        assert free.isfinite().all()


def test_importance_weights_need_the_sampler_only_if_asked_for() -> None:
    arguments = (torch.zeros(1, 2), None, torch.ones(1, 2))
    assert importance_weights(*arguments, SurrogateConfig()) is None
    with pytest.raises(UserError, match=r"model\.objective\.surrogate\.is_correction is truncate"):
        importance_weights(*arguments, SurrogateConfig(is_correction="truncate"))


def test_tokens_are_independent() -> None:
    """A flat chunk gives what the whole gives: the fused head may call it slice by slice."""
    generator = torch.Generator().manual_seed(5)
    policy, old, ref, advantages = torch.randn(4, 3, 7, generator=generator).unbind()
    config = SurrogateConfig(kl_coef=0.1, dual_clip=3.0)
    whole = token_surrogate(policy, old, ref, None, advantages, config).value.flatten()
    slices = [tensor.flatten().split(5) for tensor in (policy, old, ref, advantages)]
    parts = [token_surrogate(p, o, r, None, a, config).value for p, o, r, a in zip(*slices, strict=True)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 0.0}, "clip_low"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": 0.0}, "clip_high"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"dual_clip": 1.1}, "dual_clip is 1.1: it must be at least 1 . clip_high"),
        ({"dual_clip": math.nan}, "dual_clip"),
        ({"ratio_level": "word"}, "ratio_level is 'word': choose one of token, sequence"),
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4': choose one of k1, k2, k3"),
        ({"kl_coef": -1.0}, "kl_coef"),
        ({"kl_coef": math.nan}, "kl_coef"),
        ({"is_correction": "clip"}, "is_correction is 'clip': choose one of none, truncate, mask"),
        ({"is_level": "batch"}, "is_level"),
        ({"is_cap": 0.0}, "is_cap"),
    ],
)
def test_refusals_say_what_to_change(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.objective\.surrogate\.{message}"):
        SurrogateConfig(**settings)


def test_defaults() -> None:
    """What the documentation and the recipes rely on."""
    config = SurrogateConfig()
    assert (config.clip_low, config.clip_high, config.dual_clip) == (0.2, 0.2, None)
    assert (config.ratio_level, config.is_correction, config.is_level, config.is_cap) == ("token", "none", "token", 2.0)
    assert (config.kl_coef, config.kl_estimator, config.kl_correction) == (0.0, "k3", False)


def test_the_edges_of_what_is_allowed() -> None:
    config = SurrogateConfig(clip_low=1.0, clip_high=0.25, dual_clip=1.25, kl_coef=0.0, is_cap=0.5)
    assert (config.clip_low, config.dual_clip, config.is_cap) == (1.0, 1.25, 0.5)


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
@pytest.mark.parametrize("is_correction", ["none", "truncate", "mask"])
@pytest.mark.parametrize("is_level", ["token", "sequence"])
def test_only_token_level_ratios_and_weights_are_elementwise(
    ratio_level: Any, is_correction: Any, is_level: Any
) -> None:
    """Changing one token of a response changes the others' surrogates exactly where the property says so."""
    config = SurrogateConfig(ratio_level=ratio_level, is_correction=is_correction, is_level=is_level)
    mask = torch.ones(1, 3, dtype=torch.bool)

    def second_token(change: float) -> float:
        policy, sampler = torch.tensor([[-1.0, -1.0, -2.0]]), torch.tensor([[-1.0, -1.2, -2.1]])
        old = torch.tensor([[-1.1 + change, -1.1, -2.0]])
        terms = token_terms(TokenLogprobs(policy, old, None, sampler), mask, torch.ones(1, 1), torch.ones(1, 1), config)
        return terms.surrogates[0, 1].item()

    assert (second_token(0.0) == second_token(0.1)) == config.is_elementwise


def test_a_flat_chunk_is_refused_where_tokens_of_a_response_mix() -> None:
    tokens, one = TokenLogprobs(torch.zeros(3)), torch.ones(3)
    with pytest.raises(ValueError, match="sequence-level"):
        token_terms(tokens, None, one, one, SurrogateConfig(ratio_level="sequence"))
    assert token_terms(tokens, None, one, one, SurrogateConfig()).surrogates.tolist() == [1.0, 1.0, 1.0]
