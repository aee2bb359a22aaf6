"""Tiny random policies and prompts of unequal length."""

from dataclasses import replace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling import Sampler, SamplingSettings

PAD, EOS, VOCAB = 0, 1, 48


def tiny_policy(tied: bool, seed: int = 0) -> Qwen2ForCausalLM:
    """Two layers of 64 with heads of 32 (vLLM's CPU attention wants a multiple of 32), float32."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.1,
        attention_dropout=0.3,
    )
    return Qwen2ForCausalLM(config).eval()


def random_prompts(lengths: list[int], seed: int = 0) -> Prompts:
    """Left-padded prompts of these lengths, without end-of-sequence tokens."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    ids = torch.randint(2, VOCAB, (len(lengths), max(lengths)), generator=generator)
    ids[torch.arange(max(lengths)) < max(lengths) - sizes[:, None]] = PAD
    return Prompts(ids, sizes, tuple({} for _ in lengths))


def check_groups_are_heard(sampler: Sampler, prompts: Prompts, settings: SamplingSettings) -> list[int]:
    """Each group is heard once, as it stands in the result, padded to its own longest; returns the order."""
    heard: dict[int, Completions] = {}

    def hear(number: int, group: Completions) -> None:
        assert number not in heard
        heard[number] = group

    completions = sampler.generate(prompts, settings, 3, hear)
    quiet = sampler.generate(prompts, settings, 3)
    assert all(torch.equal(a, b) for a, b in zip(completions, quiet, strict=True))
    assert sorted(heard) == list(range(len(prompts.lengths)))
    for number, group in heard.items():
        rows = slice(number * settings.num_samples, (number + 1) * settings.num_samples)
        longest = int(group.lengths.max())
        assert group.ids.shape == group.logprobs.shape == (settings.num_samples, longest)
        for ours, theirs in zip(group, completions, strict=True):
            expected = theirs[rows, :longest] if theirs.ndim == 2 else theirs[rows]
            assert torch.equal(ours, expected)
    return list(heard)


def check_stop_tokens_end_responses(sampler: Sampler, prompts: Prompts, settings: SamplingSettings) -> None:
    """A response with stop tokens is the one without them, up to and with the first; needs draws that agree."""
    whole = sampler.generate(prompts, settings, 3)
    stops = (whole.tokens(0)[len(whole.tokens(0)) // 2], 9)
    ended = sampler.generate(prompts, replace(settings, stop_token_ids=stops), 3)
    num_stopped = 0
    for row in range(len(whole.lengths)):
        tokens = whole.tokens(row)
        first = next((place for place, token in enumerate(tokens) if token in stops), None)
        assert ended.tokens(row) == (tokens if first is None else tokens[: first + 1])
        assert bool(ended.truncated[row]) == (first is None and bool(whole.truncated[row]))
        num_stopped += first is not None
    assert num_stopped
