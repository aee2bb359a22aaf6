"""Sampling with the policy itself: exact, reproducible, and without a trace on the policy."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling import SamplingSettings, TransformersSampler
from lambda_grpo_pl.sampling.decoding import draw, processed_logprobs

from .parts import EOS, PAD, check_groups_are_heard, check_stop_tokens_end_responses, random_prompts


def sampler_of(policy: nn.Module, max_rows: int = 1024) -> TransformersSampler:
    sampler = TransformersSampler(eos_token_ids=[EOS, 2, 3], pad_token_id=PAD, max_rows=max_rows)
    sampler.sync(policy)
    return sampler


def teacher_forced(policy: nn.Module, prompts: Prompts, completions: Completions, row: int) -> Tensor:
    """Logits [ℓ, V] that predict each token of one response, from an unpadded forward pass without a cache."""
    prompt = prompts.tokens(row // (completions.ids.shape[0] // len(prompts.lengths)))
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt + completions.tokens(row)])).logits[0]
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(max_tokens=24, num_samples=3),
        SamplingSettings(max_tokens=24, num_samples=2, temperature=0.7, top_k=5),
        SamplingSettings(max_tokens=24, num_samples=2, top_p=0.6),
        SamplingSettings(max_tokens=24, temperature=0),
    ],
    ids=["plain", "top_k", "top_p", "greedy"],
)
def test_logprobs_equal_the_teacher_forced_ones(policy, prompts, settings):
    completions = sampler_of(policy).generate(prompts, settings, seed=1)
    assert completions.ids.shape[0] == 4 * settings.num_samples
    for row in range(completions.ids.shape[0]):
        length = int(completions.lengths[row])
        expected = processed_logprobs(teacher_forced(policy, prompts, completions, row), settings)
        chosen = expected.gather(1, completions.ids[row, :length, None])[:, 0]
        torch.testing.assert_close(completions.logprobs[row, :length], chosen, atol=1e-5, rtol=0)
        if settings.greedy:
            assert completions.ids[row, :length].tolist() == expected.argmax(-1).tolist()


@pytest.mark.parametrize("max_rows", [1024, 6])
def test_groups_are_heard_as_they_end(policy, max_rows):
    """Six rows at a time are three prompts: their groups are heard before the fourth's prompt is read."""
    prompts, settings = random_prompts([3, 9, 5, 7, 4, 6]), SamplingSettings(max_tokens=24, num_samples=2)
    sampler = sampler_of(policy, max_rows)
    order = check_groups_are_heard(sampler, prompts, settings)
    ends = sampler.generate(prompts, settings, 3).lengths.view(6, 2).amax(1)
    for part in [order] if max_rows > 6 else [order[:3], order[3:]]:
        assert [int(ends[number]) for number in part] == sorted(int(ends[number]) for number in part)
    assert max_rows > 6 or set(order[:3]) == {0, 1, 2}


def test_stop_tokens_end_responses(policy, prompts):
    check_stop_tokens_end_responses(sampler_of(policy), prompts, SamplingSettings(max_tokens=16, num_samples=8))


def test_rows_end_at_the_first_end_token_or_are_truncated(policy, prompts):
    completions = sampler_of(policy).generate(prompts, SamplingSettings(max_tokens=12, num_samples=16), seed=0)
    assert 0 < int(completions.truncated.sum()) < 64
    for row, (ids, length) in enumerate(zip(completions.ids.tolist(), completions.lengths.tolist(), strict=True)):
        ends = [token in (EOS, 2, 3) for token in ids[:length]]
        assert not any(ends[:-1])
        assert ends[-1] == (not completions.truncated[row])
        assert length == 12 or ends[-1]
        assert ids[length:] == [PAD] * (completions.ids.shape[1] - length)
        assert completions.logprobs[row, length:].eq(0).all()


def test_a_seed_fixes_the_tokens_and_leaves_the_global_generator_alone(policy, prompts):
    sampler, settings = sampler_of(policy), SamplingSettings(max_tokens=12, num_samples=4)
    before = torch.get_rng_state()
    first, again, other = (sampler.generate(prompts, settings, seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def test_tokens_do_not_depend_on_how_many_rows_decode_at_a_time(policy, prompts):
    settings = SamplingSettings(max_tokens=12, num_samples=4)
    together, apart = (sampler_of(policy, max_rows).generate(prompts, settings, seed=2) for max_rows in (1024, 1))
    assert torch.equal(together.ids, apart.ids)
    torch.testing.assert_close(together.logprobs, apart.logprobs, atol=1e-5, rtol=0)


def test_left_padding_changes_nothing(policy, prompts):
    settings = SamplingSettings(max_tokens=12, temperature=0)
    together = sampler_of(policy).generate(prompts, settings, seed=0)
    for row in range(4):
        alone = Prompts(torch.tensor([prompts.tokens(row)]), prompts.lengths[row : row + 1], ({},))
        single = sampler_of(policy).generate(alone, settings, seed=0)
        assert single.tokens(0) == together.tokens(row)


def test_training_mode_checkpointing_and_gradients_come_back_as_they_were(policy, prompts):
    settings = SamplingSettings(max_tokens=12, num_samples=2)
    expected = sampler_of(policy).generate(prompts, settings, seed=0)
    policy.train()
    policy.gradient_checkpointing_enable()
    policy.model.layers[0].eval()
    modes = {name: module.training for name, module in policy.named_modules()}
    completions = sampler_of(policy).generate(prompts, settings, seed=0)
    assert torch.equal(completions.ids, expected.ids)
    assert {name: module.training for name, module in policy.named_modules()} == modes
    assert torch.is_grad_enabled()
    assert not completions.logprobs.requires_grad


def test_lora_adapters_take_part(policy, prompts):
    settings = SamplingSettings(max_tokens=12, temperature=0)
    wrapped = get_peft_model(policy, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted = sampler_of(wrapped).generate(prompts, settings, seed=0)
    with wrapped.disable_adapter():
        base = sampler_of(wrapped).generate(prompts, settings, seed=0)
    assert not torch.allclose(adapted.logprobs[:, 0], base.logprobs[:, 0], atol=1e-3)
    scores = sampler_of(wrapped).probe([prompts.tokens(0) + adapted.tokens(0)])[0]
    length = int(adapted.lengths[0])
    torch.testing.assert_close(torch.tensor(scores[-length:]), adapted.logprobs[0, :length], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings(temperature=0.5, top_k=6, top_p=0.9)])
def test_frequencies_match_the_probabilities(settings):
    """Pearson's χ² over the kept tokens stays below its mean + 5 standard deviations; cut tokens never come."""
    generator = torch.Generator().manual_seed(0)
    num_draws = 200_000
    logits = torch.randn(1, 20, generator=generator)
    probs = processed_logprobs(logits, settings).exp()[0]
    uniform = torch.rand(num_draws, generator=generator)
    tokens, logprobs = draw(logits.expand(num_draws, -1), settings, uniform)
    counts = torch.bincount(tokens, minlength=20)
    kept = probs > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts - num_draws * probs)[kept] ** 2 / (num_draws * probs[kept])).sum().item()
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    torch.testing.assert_close(logprobs.exp(), probs[tokens])


def test_processing_matches_a_worked_example():
    """At temperature ½, probabilities 4 : 2 : 1 : 1 become their squares; top_p keeps the token that crosses it."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    cooler = processed_logprobs(logits, SamplingSettings(temperature=0.5)).exp()
    torch.testing.assert_close(cooler, torch.tensor([[16.0, 4, 1, 1]]) / 22)
    nucleus = processed_logprobs(logits, SamplingSettings(top_p=0.6)).exp()
    torch.testing.assert_close(nucleus, torch.tensor([[2 / 3, 1 / 3, 0, 0]]))
    likeliest = processed_logprobs(logits, SamplingSettings(top_k=1)).exp()
    torch.testing.assert_close(likeliest, torch.tensor([[1.0, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.3, 7, 1.0), (0.8, 0, 0.7), (0.9, 9, 0.5)]
)
def test_processing_is_the_one_of_transformers(temperature, top_k, top_p):
    logits = torch.randn(64, 30, generator=torch.Generator().manual_seed(0))
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    expected = TopPLogitsWarper(top_p)(None, expected).softmax(-1)
    settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(processed_logprobs(logits, settings).exp(), expected)


def test_the_ends_of_the_unit_interval_draw_tokens_that_were_kept():
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.0]]).expand(2, -1)
    settings = SamplingSettings(top_k=2)
    tokens, _ = draw(logits, settings, torch.tensor([0.0, 1 - 2**-24]))
    assert tokens.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("max_tokens", 0), ("num_samples", 0)]
)
def test_settings_refuse_what_cannot_be_sampled(field, value):
    with pytest.raises(ValueError, match=rf"{field} is {value}: "):
        SamplingSettings(**{field: value})


def test_generate_before_sync_says_what_to_call(prompts):
    sampler = TransformersSampler(eos_token_ids=[EOS], pad_token_id=PAD)
    with pytest.raises(ValueError, match=r"call sync\(policy\)"):
        sampler.generate(prompts, SamplingSettings(), seed=0)
