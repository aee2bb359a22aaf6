from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.objective import (
    LEARNABLE,
    SurrogateConfig,
    TokenLogprobs,
    count_tokens,
    policy_loss,
    preference_objective,
)

from .golden import preference

EVERYTHING = SurrogateConfig(dual_clip=3.0, kl_coef=0.05, kl_correction=True, is_correction="truncate")
SEQUENCE = SurrogateConfig(ratio_level="sequence", kl_coef=0.05, is_correction="mask", is_level="sequence")


def rollout(dtype: torch.dtype = torch.float64, spread: float = 0.4) -> tuple[TokenLogprobs, Tensor, Tensor]:
    """Six responses of up to nine tokens, with holes in the mask and one response without tokens."""
    generator = torch.Generator().manual_seed(11)
    base = -3 * torch.rand(6, 9, generator=generator, dtype=torch.float64)
    values = [(base + spread * torch.randn(6, 9, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(4)]
    mask = torch.arange(9) < torch.tensor([9, 4, 7, 1, 0, 8])[:, None]
    mask[0, 3] = mask[2, 0] = False
    advantages = torch.tensor([1.0, -1.2, 0.3, -0.7, 2.0, -2.0], dtype=dtype)
    return TokenLogprobs(values[0].requires_grad_(), *values[1:]), mask, advantages


def weights_of(mask: Tensor, family: str = "power_softmax", lam: float = 1.0) -> Tensor:
    lengths = mask.sum(-1).view(2, 3)
    count = count_tokens(lengths)
    return (preference(lam, family=family)(lengths, count.mean_length) / count.denominator).flatten().detach()


@pytest.mark.parametrize("config", [EVERYTHING, SEQUENCE], ids=["token", "sequence"])
def test_micro_batches_add_up(config: SurrogateConfig) -> None:
    """Any split gives the loss, the gradient, the S_i and the sums of the whole."""
    logprobs, mask, advantages = rollout()
    weights = weights_of(mask)
    whole = policy_loss(logprobs, mask, advantages, weights, config)
    (expected,) = torch.autograd.grad(whole.loss, logprobs.policy)
    for size in (1, 2, 4):
        parts = [
            policy_loss(
                TokenLogprobs(*(v[rows] for v in logprobs)), mask[rows], advantages[rows], weights[rows], config
            )
            for rows in torch.arange(6).split(size)
        ]
        loss = torch.stack([part.loss for part in parts]).sum()
        torch.testing.assert_close(loss, whole.loss)
        torch.testing.assert_close(torch.autograd.grad(loss, logprobs.policy)[0], expected)
        torch.testing.assert_close(torch.cat([part.surrogates for part in parts]), whole.surrogates)
        for name in ("num_tokens", "clip_low", "clip_high", "clip_dual", "kl", "sampler_gap"):
            total = torch.stack([part.statistics[name] for part in parts]).sum()
            torch.testing.assert_close(total, whole.statistics[name])


@pytest.mark.parametrize("config", [EVERYTHING, SEQUENCE], ids=["token", "sequence"])
@pytest.mark.parametrize("garbage", [math.nan, -math.inf, 1e4])
def test_what_stands_outside_the_mask_is_never_read(config: SurrogateConfig, garbage: float) -> None:
    logprobs, mask, advantages = rollout()
    clean = policy_loss(logprobs, mask, advantages, weights_of(mask), config)
    dirty_logprobs = TokenLogprobs(*(torch.where(mask, v.detach(), garbage).requires_grad_() for v in logprobs))
    dirty = policy_loss(dirty_logprobs, mask, advantages, weights_of(mask), config)
    torch.testing.assert_close(dirty.loss, clean.loss)
    (grad,) = torch.autograd.grad(dirty.loss, dirty_logprobs.policy)
    torch.testing.assert_close(grad, torch.autograd.grad(clean.loss, logprobs.policy)[0])
    assert (grad[~mask] == 0).all()
    for name, value in clean.statistics.items():
        torch.testing.assert_close(dirty.statistics[name], value)


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    """ρ = 1: d loss / d logπ_it = −w_i A_i, S_i = ℓ_i A_i, whatever the clip."""
    logprobs, mask, advantages = rollout()
    weights = weights_of(mask)
    output = policy_loss(TokenLogprobs(logprobs.policy), mask, advantages, weights, SurrogateConfig())
    torch.testing.assert_close(output.surrogates, mask.sum(-1) * advantages)
    (grad,) = torch.autograd.grad(output.loss, logprobs.policy)
    torch.testing.assert_close(grad, -(weights * advantages)[:, None] * mask)


def test_descending_the_loss_raises_good_tokens() -> None:
    logprobs, mask, advantages = rollout(spread=0.0)
    output = policy_loss(
        TokenLogprobs(logprobs.policy), mask, advantages, weights_of(mask), SurrogateConfig(dual_clip=3.0)
    )
    (grad,) = torch.autograd.grad(output.loss, logprobs.policy)
    step = -grad * mask
    good = (advantages > 0)[:, None] & mask
    assert (step[good] > 0).all()
    assert (step[~good & mask] < 0).all()


def test_the_surrogate_by_a_plain_loop() -> None:
    """The loss written out token by token, with every part switched on."""
    logprobs, mask, advantages = rollout(spread=1.0)
    weights = weights_of(mask)
    expected, clipped = 0.0, 0
    for i, t in mask.nonzero().tolist():
        policy, old, ref, sampler = (v[i, t].item() for v in logprobs)
        ratio, advantage = math.exp(policy - old), advantages[i].item()
        term = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        term = max(term, 3 * advantage) if advantage < 0 else term
        clipped += (advantage > 0 and ratio > 1.2) or (advantage < 0 and not 0.8 <= ratio <= 3)
        distance = ref - policy
        kl = ratio * (math.exp(distance) - distance - 1)
        expected -= weights[i].item() * (min(math.exp(old - sampler), 2.0) * term - 0.05 * kl)
    output = policy_loss(logprobs, mask, advantages, weights, EVERYTHING)
    assert output.loss.item() == pytest.approx(expected)
    assert clipped > 10
    assert sum(int(output.statistics[f"clip_{side}"]) for side in ("low", "high", "dual")) == clipped


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [EVERYTHING, SEQUENCE], ids=["token", "sequence"])
def test_computes_in_float32_or_wider(config: SurrogateConfig, dtype: torch.dtype) -> None:
    """Half-precision log-probabilities are widened first; autocast changes no bit; float64 stays float64."""
    for given_dtype, expected in ((dtype, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        logprobs, mask, advantages = rollout(given_dtype)
        outside = policy_loss(logprobs, mask, advantages, weights_of(mask), config)
        with torch.autocast("cpu", dtype=dtype):
            inside = policy_loss(logprobs, mask, advantages, weights_of(mask), config)
        assert outside.loss.dtype == inside.loss.dtype == expected
        assert torch.equal(outside.loss, inside.loss)
        widened = TokenLogprobs(*(value.to(expected) for value in logprobs))
        assert torch.equal(policy_loss(widened, mask, advantages, weights_of(mask), config).loss, outside.loss)


def test_a_batch_of_nothing_is_zero() -> None:
    """All responses empty: no NaN in the loss, the gradient or the statistics."""
    logprobs, mask, advantages = rollout()
    nothing = torch.zeros_like(mask)
    output = policy_loss(logprobs, nothing, advantages, weights_of(nothing), EVERYTHING)
    assert output.loss == 0
    assert (torch.autograd.grad(output.loss, logprobs.policy)[0] == 0).all()
    assert all(value.isfinite().all() for value in output.statistics.values())


@pytest.mark.parametrize("family", LEARNABLE)
def test_lambda_gradient_through_micro_batches_is_that_of_the_whole_loss(family: str) -> None:
    """`(-J).backward()` on accumulated S_i = autograd through the policy loss with a differentiable f."""
    logprobs, mask, advantages = rollout()
    lengths = mask.sum(-1).view(2, 3)
    count = count_tokens(lengths)
    model = preference(0.7, family=family)
    signs = advantages.view(2, 3)
    weights = (model(lengths, count.mean_length, advantages=signs) / count.denominator).flatten()
    parts = [
        policy_loss(
            TokenLogprobs(*(v[rows] for v in logprobs)), mask[rows], advantages[rows], weights[rows], EVERYTHING
        )
        for rows in torch.arange(6).split(2)
    ]
    surrogates = torch.cat([part.surrogates for part in parts])
    (direct,) = torch.autograd.grad(-(weights * surrogates).sum(), model.lam)
    objective = preference_objective(model, surrogates.view(2, 3), lengths, count, advantages=signs)
    assert -objective.item() == pytest.approx(sum(part.loss.item() for part in parts))
    (slope,) = torch.autograd.grad(-objective, model.lam)
    torch.testing.assert_close(slope, direct)


def test_an_inactive_response_costs_nothing() -> None:
    """With f = 0 outside the active rows: the others' loss and gradients are those of a batch without it."""
    logprobs, mask, advantages = rollout()
    active = torch.tensor([[True, True, False], [True, True, True]])
    lengths = mask.sum(-1).view(2, 3)
    count = count_tokens(lengths, active)
    weights = (preference(1.0)(lengths, count.mean_length, active) / count.denominator).flatten()
    output = policy_loss(logprobs, mask, advantages, weights, EVERYTHING)
    (grad,) = torch.autograd.grad(output.loss, logprobs.policy)
    assert (grad[2] == 0).all()
    assert (grad[0][mask[0]] != 0).any()


@pytest.mark.parametrize("config", [EVERYTHING, SEQUENCE], ids=["token", "sequence"])
def test_statistics_by_a_plain_loop(config: SurrogateConfig) -> None:
    """Over the tokens of the mask; a sequence-level ratio counts once per token of its response."""
    logprobs, mask, advantages = rollout(spread=1.0)
    sequence = config.ratio_level == "sequence"
    ratios, weights, gaps, kls = [], [], [], []
    clipped = {"low": 0, "high": 0, "dual": 0}
    for i, t in mask.nonzero().tolist():
        policy, old, ref, sampler = (values.detach()[i] for values in logprobs)
        difference, correction = policy - old, old - sampler
        log_ratio = difference[mask[i]].mean().item() if sequence else difference[t].item()
        weight = math.exp(correction[mask[i]].sum().item() if sequence else correction[t].item())
        distance = (ref - policy)[t].item()
        kl = math.exp(distance) - distance - 1
        ratio, advantage = math.exp(log_ratio), advantages[i].item()
        clipped["low"] += advantage < 0 and ratio < 0.8
        clipped["high"] += advantage > 0 and ratio > 1.2
        clipped["dual"] += advantage < 0 and config.dual_clip is not None and ratio > config.dual_clip
        ratios.append(ratio)
        gaps.append(abs(correction[t].item()))
        kls.append(kl * ratio if config.kl_correction else kl)
        weights.append(min(weight, 2.0) if config.is_correction == "truncate" else weight * (weight <= 2.0))
    output = policy_loss(logprobs, mask.float(), advantages, weights_of(mask), config)
    expected = {
        "num_tokens": len(ratios),
        **{f"clip_{side}": number for side, number in clipped.items()},
        "kl": sum(kls),
        "policy_shift": -sum(math.log(ratio) for ratio in ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "sampler_gap": sum(gaps),
        "sampler_gap_max": max(gaps),
        "sampler_weight": sum(weights),
    }
    assert {name: value.item() for name, value in output.statistics.items()} == pytest.approx(expected)
    assert not output.surrogates.requires_grad


def test_only_the_policy_has_a_gradient() -> None:
    """λ learns from `preference_objective`, not through the weights of the loss."""
    logprobs, mask, advantages = rollout()
    old, weights = logprobs.old, weights_of(mask)
    assert old is not None
    logprobs = logprobs._replace(old=old.requires_grad_())
    policy_loss(logprobs, mask, advantages, weights.requires_grad_(), EVERYTHING).loss.backward()
    assert logprobs.policy.grad is not None
    assert old.grad is weights.grad is None


def surrogate_settings() -> list[dict[str, Any]]:
    return [{"ratio_level": level, "is_correction": c} for level in ("token", "sequence") for c in ("none", "truncate")]


@pytest.mark.parametrize("settings", surrogate_settings(), ids=str)
def test_row_order_does_not_matter(settings: dict[str, Any]) -> None:
    logprobs, mask, advantages = rollout()
    weights, order = weights_of(mask), torch.tensor([3, 0, 5, 1, 4, 2])
    config = SurrogateConfig(**settings)
    straight = policy_loss(logprobs, mask, advantages, weights, config)
    shuffled_logprobs = TokenLogprobs(*(value[order] for value in logprobs))
    shuffled = policy_loss(shuffled_logprobs, mask[order], advantages[order], weights[order], config)
    torch.testing.assert_close(shuffled.loss, straight.loss)
    torch.testing.assert_close(shuffled.surrogates, straight.surrogates[order])


@pytest.mark.parametrize(("family", "power"), [("grpo", 0), ("dr_grpo", 1)], ids=["GSPO", "LUSPO"])
def test_one_ratio_per_response_gives_gspo_and_luspo(family: str, power: int) -> None:
    """−(1/N) Σ ℓ^power · min(ρ A, clip(ρ) A), ρ = exp(mean of the log-ratios); LUSPO is divided by L_max here."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[2, 5], [3, 1]])
    mask = torch.arange(5) < lengths.view(-1, 1)
    old = -torch.rand(4, 5, generator=generator, dtype=torch.float64)
    policy = (old + 0.1 * torch.randn(4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 0.7, -0.7], dtype=torch.float64)
    count = count_tokens(lengths)
    model = preference(0.0, family=family, learn="fixed", max_length=8)
    weights = (model(lengths, count.mean_length) / count.denominator).flatten()
    config = SurrogateConfig(ratio_level="sequence", clip_low=0.02, clip_high=0.02)
    loss = policy_loss(TokenLogprobs(policy, old), mask, advantages, weights, config).loss
    ratio = (((policy - old) * mask).sum(1) / mask.sum(1)).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.98, 1.02) * advantages)
    expected = -(surrogate * (mask.sum(1) / 8) ** power).mean()
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, policy, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
