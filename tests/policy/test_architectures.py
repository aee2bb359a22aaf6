"""Every architecture trains on its own log-probabilities in every layout offered, or is refused with a sentence."""

import pytest
import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy, PolicyConfig, exactness, lay_out
from lambda_grpo_pl.policy.exactness import Exactness, find_exactness
from lambda_grpo_pl.policy.packing import ALL, PADDED
from lambda_grpo_pl.policy.shrinking import build, turn_off_dropout
from tests.policy.architectures import ARCHITECTURES, VOCABULARY, make_config

SETTINGS = PolicyConfig(path="some/model", head_chunk=16)
REFUSED = {"codegen", "falcon_alibi", "zamba2", "dbrx", "modernbert_decoder", "llama4_text"}
PADDED_ONLY = {
    *("gpt_neo", "gptj", "bloom", "mpt", "falcon", "xglm", "openai_gpt"),  # attention outside transformers' interface
    *("stablelm", "nemotron"),  # layer code that reshapes by batch
    *("mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "granitemoehybrid", "lfm2", "qwen3_next", "qwen3_5_text"),
    *("falcon_h1", "recurrent_gemma", "rwkv"),  # state that would cross packed rows
}
FAST = {
    *("qwen2_window", "qwen3", "qwen3_moe", "mistral", "gemma2", "gemma3", "phi3", "phi3_longrope", "granite"),
    *("olmo2", "olmo3", "smollm3_window", "gpt_oss", "cohere2", "gpt2_dropout", "hyperclovax"),
    *("falcon_alibi", "llama4_text", "gpt_neo", "jamba"),
}
CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ARCHITECTURES]


def make_rows(longest: int | None) -> tuple[Prompts, Completions]:
    """Two prompts with three responses each, longer than every window, or as long as the model allows."""
    width, length = (30, 40) if longest is None else (10, longest - 10)
    generator = torch.Generator().manual_seed(3)
    prompts = torch.randint(3, VOCABULARY, (2, width), generator=generator)
    responses = torch.randint(3, VOCABULARY, (6, length), generator=generator)
    lengths = torch.tensor([length, 1, length // 2, 12, length - 3, 7])
    return (
        Prompts(prompts, torch.tensor([width, width // 2]), ({}, {})),
        Completions(responses, lengths, lengths > length, torch.zeros(responses.shape)),
    )


def own_logprobs(model: nn.Module, prompts: Prompts, completions: Completions) -> Tensor:
    """What the model itself says, one row at a time."""
    rows = []
    for row in range(len(completions.lengths)):
        prompt, response = prompts.tokens(row // 3), completions.tokens(row)
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        rows.append((logits / 0.7).log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(rows)


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    names, weights = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def assert_exact(name: str, found: Exactness) -> None:
    config = make_config(name)
    turn_off_dropout(config)
    prompts, completions = make_rows(found.longest_row)
    own = build(config, "eager", trust_remote_code=False).eval()
    expected = own_logprobs(own, prompts, completions)
    weights = torch.sin(torch.arange(len(expected)))
    slopes = gradients((weights * expected).sum(), own)
    scale = max(float(slope.abs().max()) for slope in slopes.values())
    for layout in found.layouts:
        model = build(config, found.attention, trust_remote_code=False)
        policy = Policy(model, SETTINGS, 0.7, found.layouts).train()
        batch = lay_out(prompts, completions, torch.arange(6), layout)
        loss, scores = policy(batch, lambda logprobs, place: (weights[place] * logprobs).sum())
        torch.testing.assert_close(scores.logprobs, expected.detach(), atol=1e-4, rtol=0, msg=layout)
        ours = gradients(loss, model)
        assert ours.keys() == slopes.keys()
        for key, slope in slopes.items():
            assert float((ours[key] - slope).abs().max()) < 1e-4 * scale, (layout, key)


@pytest.mark.parametrize("name", CASES)
def test_an_architecture_is_exact_in_every_layout_offered_or_refused(name: str) -> None:
    config = make_config(name)
    turn_off_dropout(config)
    if name in REFUSED:
        with pytest.raises(UserError, match=r"model\.policy\.path some/model .* cannot be (trained|checked)"):
            find_exactness(config, SETTINGS)
        return
    found = find_exactness(config, SETTINGS)
    assert found.layouts == (PADDED if name in PADDED_ONLY else ALL)
    assert found.longest_row == (32 if name in ("llama_rope_dynamic", "phi3_longrope") else None)
    assert_exact(name, found)


def test_dropout_that_stays_on_is_refused() -> None:
    with pytest.raises(UserError, match="nats"):
        find_exactness(make_config("gpt2_dropout"), SETTINGS)


def test_a_head_that_is_scaled_in_an_unknown_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_grpo_pl.policy.logits.DIVISORS", ())
    with pytest.raises(UserError, match=r"granite\) cannot be trained.*scaled logits"):
        find_exactness(make_config("granite"), SETTINGS)


def test_packed_attention_that_ignores_windows_falls_back_to_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = "lambda_grpo_pl.policy.segments.AttentionLayout.blocks"
    original = exactness.lay_out.__globals__["AttentionLayout"].blocks
    monkeypatch.setattr(blocks, lambda self, window: original(self, None))
    assert find_exactness(make_config("mistral"), SETTINGS).layouts == PADDED


def test_the_check_leaves_generators_and_configuration_alone() -> None:
    config = make_config("gemma3")
    before, state = config.to_dict(), torch.random.get_rng_state()
    find_exactness(config, SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert config.to_dict() == before


def test_the_check_runs_on_the_cpu_under_a_device_context() -> None:
    """Lightning loads the model inside the device's context, which moves every constructor there."""
    with torch.device("meta"):
        assert find_exactness(make_config("llama"), SETTINGS, torch.empty(0).device).layouts == ALL
