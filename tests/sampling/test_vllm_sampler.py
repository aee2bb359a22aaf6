"""Real vLLM on the CPU: it computes what the policy computes, reproducibly, and leaves the process as it was."""

import copy
import os
import random
from collections.abc import Iterator
from itertools import pairwise

import numpy
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config

import lambda_grpo_pl.sampling.vllm.sampler as vllm_sampler
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import (
    AdapterPlan,
    SamplingSettings,
    SyncError,
    TransformersSampler,
    VllmSampler,
    VllmSettings,
    check_sync,
    plan_adapters,
    policy_weights,
    probe_sequences,
)
from lambda_grpo_pl.sampling.decoding import processed_logprobs
from lambda_grpo_pl.sampling.vllm.compat import LAUNCH_VARIABLES
from lambda_grpo_pl.sampling.vllm.engine import request_seeds
from lambda_grpo_pl.sampling.vllm.lora import engine_arguments

from .parts import EOS, PAD, VOCAB, check_groups_are_heard, check_stop_tokens_end_responses, random_prompts, tiny_policy

SEQUENCES = probe_sequences(VOCAB)


def process_state() -> tuple:
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        numpy.random.get_state()[1].tolist(),
        torch.get_num_threads(),
        torch.set_num_threads,
        {name: os.environ.get(name) for name in LAUNCH_VARIABLES},
    )


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def engine(tied: bool) -> Iterator[VllmSampler]:
    """One engine for all tests of a kind of policy; building it must leave no trace."""
    config = tiny_policy(tied).config
    before = process_state()
    sampler = VllmSampler(
        config,
        eos_token_ids=[EOS, 2, 3],
        pad_token_id=PAD,
        settings=VllmSettings(max_model_len=64, kv_cache_gib=0.125),
    )
    assert process_state() == before
    with pytest.raises(ValueError, match=r"call sync\(policy\)"):
        sampler.probe(SEQUENCES)
    yield sampler
    sampler.close()


@pytest.fixture
def trained(tied: bool) -> nn.Module:
    return tiny_policy(tied, seed=3)


def scorer(policy: nn.Module) -> TransformersSampler:
    sampler = TransformersSampler(eos_token_ids=[EOS], pad_token_id=PAD)
    sampler.sync(policy)
    return sampler


def step_randomly(policy: nn.Module) -> None:
    """Change every trainable parameter, as an optimizer would, only more."""
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))


def test_after_each_sync_the_engine_computes_what_the_policy_computes(engine, trained):
    for _ in range(3):
        step_randomly(trained)
        report = engine.sync(trained)
        assert report.missing == ()
        assert set(report.sent) == set(trained.state_dict())
        assert report.num_bytes == sum(weight.nbytes for weight in trained.state_dict().values())
        assert check_sync(engine, scorer(trained).probe, SEQUENCES, tolerance=1e-4) < 1e-4


@pytest.mark.parametrize("skipped", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_tensor_that_is_not_sent_is_found_and_named(engine, trained, monkeypatch, skipped):
    engine.sync(trained)
    step_randomly(trained)

    def leaky(policy, *how):
        return ((name, weight) for name, weight in policy_weights(policy, *how) if name != skipped)

    monkeypatch.setattr(vllm_sampler, "policy_weights", leaky)
    assert engine.sync(trained).missing == (skipped,)
    with pytest.raises(SyncError, match=rf"never sent.*: {skipped}\."):
        check_sync(engine, scorer(trained).probe, SEQUENCES, tolerance=1e-3)


def test_a_policy_that_moved_on_since_the_sync_is_found(engine, trained):
    engine.sync(trained)
    step_randomly(trained)
    with pytest.raises(SyncError, match=r"All \d+ tensors were sent"):
        check_sync(engine, scorer(trained).probe, SEQUENCES, tolerance=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(max_tokens=20, num_samples=4),
        SamplingSettings(max_tokens=20, num_samples=2, temperature=0.7, top_k=5),
        SamplingSettings(max_tokens=20, num_samples=2, top_p=0.7),
        SamplingSettings(max_tokens=20, num_samples=2, temperature=0),
    ],
    ids=["plain", "top_k", "top_p", "greedy"],
)
def test_logprobs_equal_the_teacher_forced_ones(engine, trained, settings):
    engine.sync(trained)
    prompts = random_prompts([3, 9, 5, 7])
    completions = engine.generate(prompts, settings, seed=0)
    assert len(completions.lengths) == 4 * settings.num_samples
    for row, length in enumerate(completions.lengths.tolist()):
        prompt = prompts.tokens(row // settings.num_samples)
        with torch.no_grad():
            logits = trained(input_ids=torch.tensor([prompt + completions.tokens(row)])).logits[0, len(prompt) - 1 : -1]
        expected = processed_logprobs(logits, settings).gather(1, completions.ids[row, :length, None])[:, 0]
        torch.testing.assert_close(completions.logprobs[row, :length], expected, atol=1e-4, rtol=0)
        assert (completions.ids[row, length - 1] in (EOS, 2, 3)) == (not completions.truncated[row])
        assert completions.ids[row, length:].eq(PAD).all()
        assert completions.logprobs[row, length:].eq(0).all()


def test_greedy_agrees_with_the_transformers_sampler(engine, trained):
    engine.sync(trained)
    other = TransformersSampler(eos_token_ids=[EOS, 2, 3], pad_token_id=PAD)
    other.sync(trained)
    settings = SamplingSettings(max_tokens=20, temperature=0)
    prompts = random_prompts([3, 9, 5, 7])
    ours, theirs = engine.generate(prompts, settings, seed=0), other.generate(prompts, settings, seed=0)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.lengths, theirs.lengths)
    assert torch.equal(ours.truncated, theirs.truncated)


def test_a_seed_fixes_the_tokens_and_nothing_of_the_process_changes(engine, trained):
    engine.sync(trained)
    prompts, settings = random_prompts([3, 17, 20, 33]), SamplingSettings(max_tokens=16, num_samples=4)
    before = process_state()
    first, other, again = (engine.generate(prompts, settings, seed) for seed in (5, 6, 5))
    assert process_state() == before
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize("each_request", [False, True], ids=["one seed", "a seed per request"])
def test_samples_are_a_function_of_the_seed_alone(engine, trained, monkeypatch, each_request):
    """On GPUs vLLM draws requests' seeds from numpy's generator unless each has one; here both ways run."""
    monkeypatch.setattr(engine._engine, "seeds_each_request", each_request)
    engine.sync(trained)
    prompts, settings = random_prompts([3, 17, 3]), SamplingSettings(max_tokens=16, num_samples=8)
    prompts.ids[2] = prompts.ids[0]
    drawn, asked, params = [], [], engine._engine._vllm.SamplingParams
    spy = lambda **fields: asked.append(fields["seed"]) or params(**fields)  # noqa: E731
    monkeypatch.setattr(engine._engine._vllm, "SamplingParams", spy)
    for global_seed in (0, 1):
        numpy.random.seed(global_seed)
        torch.manual_seed(global_seed)
        drawn.append(engine.generate(prompts, settings, seed=5))
    assert asked == 2 * (request_seeds(5, 3) if each_request else [None] * 3)
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    rows = [drawn[0].tokens(row) for row in (*range(8), *range(16, 24))]
    distinct = {tuple(row) for row in rows}  # members of a group, and of another group of the same prompt
    assert len(distinct) > 12, "beyond a few responses that end at once"
    other = engine.generate(prompts, settings, seed=6)
    assert sum(other.tokens(row) == rows[row] for row in range(8)) < 4


def test_seeds_of_requests_leave_room_for_a_group():
    seeds = request_seeds(7, 1000)
    assert seeds == request_seeds(7, 1000)
    assert seeds[:10] == request_seeds(7, 10)
    assert seeds[0] != request_seeds(8, 1)[0]
    assert 0 <= min(seeds) < max(seeds) < 2**62
    assert min(b - a for a, b in pairwise(sorted(seeds))) > 10_000


def test_a_prefix_cache_that_stays_is_an_error(engine, trained, monkeypatch):
    engine.sync(trained)
    monkeypatch.setattr(engine._engine._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(RuntimeError, match="did not reset its prefix cache"):
        engine.generate(random_prompts([3]), SamplingSettings(max_tokens=4), seed=0)


def test_an_engine_that_sleeps_wakes_up_before_it_is_used(engine, trained, monkeypatch):
    engine.sync(trained)
    calls = []
    monkeypatch.setattr(engine._engine, "_sleeps", True)
    monkeypatch.setattr(engine._engine._llm, "sleep", lambda level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(engine._engine._llm, "wake_up", lambda: calls.append("wake up"))
    uses = (
        lambda: engine.sync(trained),
        lambda: engine.probe(SEQUENCES),
        lambda: engine.generate(random_prompts([3]), SamplingSettings(max_tokens=4), seed=0),
    )
    for use in uses:
        engine.sleep()
        engine.sleep()
        use()
        assert calls == ["sleep 1", "wake up"]
        calls.clear()


def test_sleep_without_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"rollout\.engine\.sleep is true, but there is no GPU"):
        VllmSampler(tiny_policy(True).config, [EOS], PAD, VllmSettings(sleep=True))


def test_groups_are_heard_as_they_end(engine, trained):
    engine.sync(trained)
    prompts, settings = random_prompts([3, 9, 5, 7, 4, 6]), SamplingSettings(max_tokens=30, num_samples=2)
    order = check_groups_are_heard(engine, prompts, settings)
    ends = engine.generate(prompts, settings, 3).lengths.view(6, 2).amax(1)
    assert [int(ends[number]) for number in order] == sorted(ends.tolist())
    check_groups_are_heard(engine, prompts, SamplingSettings(max_tokens=5, temperature=0, num_samples=2))


def test_stop_tokens_end_responses(engine, trained):
    engine.sync(trained)
    prompts = random_prompts([3, 9, 5, 7, 4, 6, 8, 5, 6, 7])
    check_stop_tokens_end_responses(engine, prompts, SamplingSettings(max_tokens=16, temperature=0))


def test_a_listener_that_raises_leaves_the_engine_usable(engine, trained):
    engine.sync(trained)
    prompts, settings = random_prompts([3, 9, 5, 7]), SamplingSettings(max_tokens=30, num_samples=2)
    before = engine.generate(prompts, settings, 3)

    def fail(number, group):
        raise KeyError(number)

    with pytest.raises(KeyError):
        engine.generate(prompts, settings, 3, fail)
    assert all(torch.equal(a, b) for a, b in zip(before, engine.generate(prompts, settings, 3), strict=True))


def test_an_engine_that_failed_is_replaced(engine, trained, monkeypatch):
    """It dies in the middle of a call, and does not even close; the new one samples and scores what it would have."""
    engine.sync(trained)
    step_randomly(trained)
    engine.sync(trained)
    prompts, settings = random_prompts([3, 9, 5, 7]), SamplingSettings(max_tokens=30, num_samples=2)
    expected, scores = engine.generate(prompts, settings, 3), engine.probe(SEQUENCES)
    dead = engine._engine._llm.llm_engine
    step, steps = dead.step, []

    def die():
        steps.append(1)
        if len(steps) == 5:
            raise RuntimeError("EngineCore encountered an issue")
        return step()

    def not_close(*_):
        raise AssertionError("it is dead")

    monkeypatch.setattr(dead, "step", die)
    monkeypatch.setattr(dead.engine_core, "shutdown", not_close)
    with pytest.raises(RuntimeError, match="EngineCore"):
        engine.generate(prompts, settings, 3)
    monkeypatch.setattr(vllm_sampler, "is_distributed", lambda: True)
    with pytest.raises(UserError, match=r"several ranks.*--resume"):
        engine.restart()
    monkeypatch.setattr(vllm_sampler, "is_distributed", lambda: False)
    before = process_state()
    engine.restart()
    assert process_state() == before
    assert engine._engine._llm.llm_engine is not dead
    assert engine.probe(SEQUENCES) == scores
    assert all(torch.equal(a, b) for a, b in zip(expected, engine.generate(prompts, settings, 3), strict=True))


def test_frequencies_of_the_first_token_match_the_policy(engine, trained):
    engine.sync(trained)
    num_draws = 2000
    prompts = random_prompts([6])
    completions = engine.generate(prompts, SamplingSettings(max_tokens=1, num_samples=num_draws), seed=0)
    with torch.no_grad():
        probs = trained(input_ids=prompts.ids).logits[0, -1].softmax(-1)
    counts = torch.bincount(completions.ids[:, 0], minlength=VOCAB)
    chi_square = ((counts - num_draws * probs) ** 2 / (num_draws * probs)).sum().item()
    assert chi_square < (VOCAB - 1) + 5 * (2 * (VOCAB - 1)) ** 0.5


def test_lora_is_merged_on_the_way_and_only_adapted_modules_travel(engine, trained):
    base = copy.deepcopy(trained.state_dict())
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    wrapped = get_peft_model(trained, config)
    everything = set(engine.sync(wrapped).sent)
    assert everything == set(base)
    check_sync(engine, scorer(wrapped).probe, SEQUENCES, tolerance=1e-4)
    step_randomly(wrapped)
    sent = set(engine.sync(wrapped).sent)
    check_sync(engine, scorer(wrapped).probe, SEQUENCES, tolerance=1e-4)
    assert sent == {name for name in everything if ".self_attn." in name or ".mlp." in name}
    assert all(
        torch.equal(base[name.replace("base_layer.", "")], weight)
        for name, weight in wrapped.get_base_model().state_dict().items()
        if "lora_" not in name
    )


@pytest.fixture(scope="module")
def adapter_engine(tied: bool) -> Iterator[VllmSampler]:
    wrapped = all_linear(tiny_policy(tied))
    config = wrapped.get_base_model().config
    config.max_position_embeddings = 160
    settings = VllmSettings(max_model_len=160, kv_cache_gib=0.125)
    sampler = VllmSampler(config, [EOS, 2, 3], PAD, settings, plan_adapters(wrapped))
    yield sampler
    sampler.close()


def all_linear(policy: nn.Module) -> nn.Module:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=5, lora_alpha=15, target_modules=targets, init_lora_weights=False, alpha_pattern={"o_proj": 4}
    )
    return get_peft_model(policy, config)


def test_adapters_travel_by_themselves(adapter_engine, trained):
    """Base weights once, then A and B; a second policy sends its own base; a prompt beyond a cache block (128) too."""
    long_prompt, settings = random_prompts([130]), SamplingSettings(max_tokens=8, num_samples=2)
    for policy in (all_linear(trained), all_linear(tiny_policy(trained.config.tie_word_embeddings, seed=8))):
        before = copy.deepcopy(policy.state_dict())
        for round_ in range(3):
            report = adapter_engine.sync(policy)
            assert report.missing == ()
            adapters = {name for name in report.sent if ".lora_" in name}
            assert len(adapters) == 2 * 7 * 2
            assert (set(report.sent) == adapters) == (round_ > 0)
            assert check_sync(adapter_engine, scorer(policy).probe, SEQUENCES, tolerance=1e-4) < 1e-4
            completions = adapter_engine.generate(long_prompt, settings, seed=round_)
            for row, length in enumerate(completions.lengths.tolist()):
                with torch.no_grad():
                    ids = torch.tensor([long_prompt.tokens(0) + completions.tokens(row)])
                    logprobs = policy(input_ids=ids).logits[0, 129:-1].log_softmax(-1)
                expected = logprobs.gather(1, completions.ids[row, :length, None])[:, 0]
                torch.testing.assert_close(completions.logprobs[row, :length], expected, atol=1e-4, rtol=0)
            assert all(torch.equal(policy.state_dict()[name], weight) for name, weight in before.items())
            step_randomly(policy)
            before = copy.deepcopy(policy.state_dict())


def test_an_adapter_that_was_not_sent_is_found(adapter_engine, trained):
    wrapped = all_linear(trained)
    adapter_engine.sync(wrapped)
    step_randomly(wrapped)
    with pytest.raises(SyncError):
        check_sync(adapter_engine, scorer(wrapped).probe, SEQUENCES, tolerance=1e-3)


@pytest.mark.parametrize(
    ("plan", "version", "message"),
    [
        (AdapterPlan(600, ("q_proj",)), "0.32.0", "takes at most 512"),
        (AdapterPlan(8, ("q_proj",)), "0.31.2", r"requires vLLM 0\.32"),
    ],
)
def test_adapters_that_vllm_cannot_take_are_refused(plan, version, message):
    with pytest.raises(ValueError, match=message):
        engine_arguments(plan, version)


def test_prompts_that_do_not_fit_are_refused_in_words(engine, trained):
    engine.sync(trained)
    with pytest.raises(
        ValueError, match=r"is 69 tokens, but the engine holds 64: raise rollout\.engine\.max_model_len"
    ):
        engine.generate(random_prompts([9]), SamplingSettings(max_tokens=60), seed=0)


def test_heads_that_the_cpu_attention_cannot_run_are_refused_before_the_engine_starts():
    config = Qwen2Config(hidden_size=96, num_attention_heads=4)
    with pytest.raises(ValueError, match="heads have 24 dimensions"):
        VllmSampler(config, eos_token_ids=[EOS], pad_token_id=PAD, settings=VllmSettings())
