"""Tiny random policies and prompts of unequal length."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling import Sampler, SamplingSettings, TransformersSampler

PAD, EOS, VOCAB = 0, 1, 48


def tiny_policy(tied: bool, seed: int = 0) -> Qwen2ForCausalLM:
    """Two layers of 64 with heads of 32 (vLLM's CPU attention requires a multiple of 32), float32."""
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


class Bfloat16Engine(TransformersSampler):
    """Computes as an engine in bfloat16 does, on any CPU: weights and layers' outputs are rounded, sums are float32.

    Its head is a tensor of its own even where the policy's is tied, as in vLLM on CPUs.
    """

    def __init__(self, config: object) -> None:
        untied = copy.deepcopy(config)
        untied.tie_word_embeddings = False  # type: ignore[attr-defined]
        super().__init__([EOS], PAD, config=untied)  # type: ignore[arg-type]
        assert self._replica is not None
        for module in self._replica.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _, __, output: round_output(output))

    def receive(self, weights, expected=None):  # type: ignore[no-untyped-def]
        """Round what arrives."""
        return super().receive(((name, weight.bfloat16().float()) for name, weight in weights), expected)


def round_output(output: object) -> object:
    """Round a tensor, or each of a tuple, to bfloat16."""
    if isinstance(output, tuple):
        return tuple(round_output(part) for part in output)
    return output.bfloat16().float() if isinstance(output, Tensor) else output


Weights = dict[str, Tensor]
Fault = Callable[[Weights, Weights, torch.Generator], Weights]
"""(weights now, weights before the last update, generator) → what a broken sync makes of them."""


def matrices(weights: Weights) -> list[str]:
    """Names of the layers' matrices."""
    return [name for name, weight in weights.items() if weight.ndim == 2 and ".layers." in name]


def choose(names: list[str], generator: torch.Generator) -> str:
    """One of `names`."""
    return names[int(torch.randint(len(names), (), generator=generator))]


def stale_tensor(now: Weights, before: Weights, generator: torch.Generator) -> Weights:
    """One matrix stays what it was."""
    name = choose(matrices(now), generator)
    return {**now, name: before[name]}


def stale_head(now: Weights, before: Weights, generator: torch.Generator) -> Weights:
    """The tied head stays what it was, while the embedding is new."""
    return {**now, "lm_head.weight": before["lm_head.weight"]}


def swapped_layers(now: Weights, before: Weights, generator: torch.Generator) -> Weights:
    """Two neighboring layers change places."""
    numbers = sorted({int(name.split(".layers.")[1].split(".")[0]) for name in matrices(now)})
    first = numbers[int(torch.randint(len(numbers) - 1, (), generator=generator))]
    places = {f".layers.{first}.": f".layers.{first + 1}.", f".layers.{first + 1}.": f".layers.{first}."}
    other = {name: name.replace(a, b, 1) for a, b in places.items() for name in now if a in name}
    return {name: now[other.get(name, name)] for name in now}


def unsent_adapter(now: Weights, before: Weights, generator: torch.Generator) -> Weights:
    """One layer's matrix comes without its adapter, B·A of rank 4 and 0.3 of its size."""
    name = choose([name for name in matrices(now) if "_proj" in name], generator)
    rows, columns = now[name].shape
    change = torch.randn(rows, 4, generator=generator) @ torch.randn(4, columns, generator=generator)
    return {**now, name: now[name] - 0.3 * change * now[name].norm() / change.norm()}


def wrong_cast(now: Weights, before: Weights, generator: torch.Generator) -> Weights:
    """All matrices pass through an 8-bit float."""
    return {name: weight.to(torch.float8_e4m3fn).float() for name, weight in now.items()}


FAULTS: Mapping[str, Fault] = {
    "stale tensor": stale_tensor,
    "tied head unsent": stale_head,
    "two layers swapped": swapped_layers,
    "one adapter unsent": unsent_adapter,
    "wrong cast": wrong_cast,
}


@torch.no_grad()
def update(policy: nn.Module, relative: float, generator: torch.Generator) -> None:
    """Change each matrix by `relative` of its own standard deviation."""
    for weight in policy.parameters():
        if weight.ndim == 2:
            weight.add_(relative * weight.std() * torch.randn(weight.shape, generator=generator))


def copied(policy: nn.Module) -> Weights:
    """The policy's state, not to change with it."""
    return {name: weight.clone() for name, weight in policy.state_dict().items()}


def rounds(policy: nn.Module, number: int, relative: float) -> Iterator[tuple[Weights, Weights, torch.Generator]]:
    """Update the policy `number` times, from the same start; yields (now, before, generator).

    What is sent is near the start: a model that works, not the noise that `relative` makes of a trained one.
    """
    start = copied(policy)
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        policy.load_state_dict(start)
        update(policy, 0.02, generator)
        now = copied(policy)
        update(policy, relative, generator)
        before = copied(policy)
        policy.load_state_dict(now)
        yield now, before, generator
    policy.load_state_dict(start)
