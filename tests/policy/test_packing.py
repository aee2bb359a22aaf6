"""Packed, shared-prefix and padded passes are one computation: same log-probabilities, same gradients."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.policy import Policy, PolicyConfig, lay_out, plan_micro_batches
from lambda_grpo_pl.policy.attention import PACKED

SIZES = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


def make_policy(family: str = "qwen2", tied: bool = True, **settings: object) -> Policy:
    torch.manual_seed(0)
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[family]
    config = config_class(**SIZES, tie_word_embeddings=tied, attn_implementation=PACKED)
    return Policy(model_class(config), PolicyConfig(path="random", head_chunk=7, **settings))


def make_rollout(num_prompts: int = 3, group_size: int = 4) -> tuple[Prompts, Completions]:
    generator = torch.Generator().manual_seed(1)
    num_rows, width, length = num_prompts * group_size, 9, 12
    prompt_lengths = torch.randint(1, width + 1, (num_prompts,), generator=generator)
    lengths = torch.randint(1, length + 1, (num_rows,), generator=generator)
    lengths[:3] = torch.tensor([1, 12, 1])
    prompts = Prompts(torch.randint(61, (num_prompts, width), generator=generator), prompt_lengths, ({},) * num_prompts)
    ids = torch.randint(61, (num_rows, length), generator=generator)
    return prompts, Completions(ids, lengths, lengths > 99, torch.zeros(ids.shape))


def scores_and_gradients(policy: Policy, layout: str, rows: torch.Tensor) -> tuple[torch.Tensor, dict]:
    prompts, completions = make_rollout()
    policy.zero_grad()
    batch = lay_out(prompts, completions, rows, layout)
    _, scores = policy(batch)
    weights = torch.sin(torch.arange(len(scores.logprobs)))
    (weights * scores.logprobs).sum().backward()
    return scores.logprobs.detach(), {name: p.grad.clone() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("layout", ["packed", "shared_prefix"])
def test_packed_rows_equal_padded_rows(family: str, layout: str) -> None:
    policy = make_policy(family)
    rows = torch.tensor([0, 1, 2, 5, 6, 8, 11])
    padded, padded_gradients = scores_and_gradients(policy, "padded", rows)
    packed, gradients = scores_and_gradients(policy, layout, rows)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, padded_gradients[name], atol=2e-5, rtol=1e-4, msg=name)


def test_padded_rows_equal_the_models_own_logits() -> None:
    """The predictor index points at the right hidden state: compare with a plain unpadded forward of each row."""
    policy = make_policy()
    prompts, completions = make_rollout()
    rows = torch.arange(12)
    _, scores = policy(lay_out(prompts, completions, rows, "padded"))
    place = 0
    for row in rows.tolist():
        prompt, response = prompts.tokens(row // 4), completions.tokens(row)
        logits = policy.model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        for offset, token in enumerate(response):
            expected = logits[len(prompt) - 1 + offset, token].detach()
            torch.testing.assert_close(scores.logprobs[place].detach(), expected, atol=1e-5, rtol=1e-5)
            place += 1
    assert place == len(scores.logprobs)


def test_shared_prefix_processes_each_prompt_once() -> None:
    prompts, completions = make_rollout()
    rows = torch.arange(12)
    inputs = int((completions.lengths - 1).sum())
    shared = lay_out(prompts, completions, rows, "shared_prefix").num_tokens
    packed = lay_out(prompts, completions, rows, "packed").num_tokens
    assert shared == inputs + int(prompts.lengths.sum())
    assert packed == inputs + 4 * int(prompts.lengths.sum())


@pytest.mark.parametrize("layout", ["packed", "shared_prefix", "padded"])
@pytest.mark.parametrize("budget", [1, 25, 60, 10_000])
def test_micro_batches_hold_every_row_once_within_the_budget(layout: str, budget: int) -> None:
    prompts, completions = make_rollout()
    rows = torch.tensor([0, 3, 4, 5, 7, 8, 9, 10])
    batches = plan_micro_batches(rows, prompts.lengths, completions.lengths, budget, layout)
    assert sorted(torch.cat(batches).tolist()) == rows.tolist()
    for batch in batches:
        tokens = lay_out(prompts, completions, batch, layout).num_tokens
        assert tokens <= budget or len(batch) == 1


def test_rows_do_not_see_each_other() -> None:
    """Changing one response changes no log-probability of another."""
    policy = make_policy()
    prompts, completions = make_rollout()
    rows = torch.arange(12)
    for layout in ("packed", "shared_prefix"):
        before = lay_out(prompts, completions, rows, layout)
        _, scores = policy(before)
        changed_ids = completions.ids.clone()
        changed_ids[5] = (changed_ids[5] + 1) % 61
        _, changed = policy(lay_out(prompts, completions._replace(ids=changed_ids), rows, layout))
        others = before.row != 5
        torch.testing.assert_close(scores.logprobs[others], changed.logprobs[others])
        assert not torch.allclose(scores.logprobs[~others], changed.logprobs[~others])


@torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True)
def test_a_compiled_policy_is_not_compiled_again_for_other_rollouts() -> None:
    """The number of attention blocks differs between micro-batches and must not be part of the graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    policy = make_policy()
    policy._transformer = [torch.compile(policy.backbone, dynamic=True, backend="eager")]
    prompts, completions = make_rollout(num_prompts=3, group_size=8)
    for rows in ([0], [1, 3], [0, 1, 5, 9], list(range(12)), [2, 3, 20], list(range(24))):
        for layout in ("packed", "shared_prefix"):
            batch = lay_out(prompts, completions, torch.tensor(rows), layout)
            _, compiled = policy(batch)
            plain = Policy(policy.model, policy.config)(batch)[1]
            torch.testing.assert_close(compiled.logprobs, plain.logprobs)
    torch._dynamo.reset()
