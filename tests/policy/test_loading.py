"""Loading: exact layouts or a sentence, dropout off, types as documented."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel, PretrainedConfig

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import LoraSettings, Policy, PolicyConfig, load_policy, load_reference, loading
from lambda_grpo_pl.policy.exactness import Exactness, find_exactness
from lambda_grpo_pl.policy.packing import ALL, PADDED
from lambda_grpo_pl.policy.shrinking import build
from lambda_grpo_pl.rollout.policy_sampler import eos_token_ids
from tests.policy.architectures import make_config
from tests.policy.test_packing import make_policy
from tests.scored import save_tiny_policy


def save(folder: Path, name: str) -> str:
    build(make_config(name), None, trust_remote_code=False).save_pretrained(folder)
    return str(folder)


def test_the_reference_keeps_its_rotary_frequencies_in_float32(policy: Path) -> None:
    config = PolicyConfig(path=str(policy))
    reference = load_reference(str(policy), config, 1.0, torch.bfloat16, ALL)
    assert reference.causal_lm.lm_head.weight.dtype == torch.bfloat16
    expected = load_policy(str(policy), config).causal_lm.model.rotary_emb.inv_freq
    assert torch.equal(reference.causal_lm.model.rotary_emb.inv_freq, expected)
    assert not any(weight.requires_grad for weight in reference.parameters())


@pytest.mark.parametrize(
    ("base_dtype", "compute", "expected"),
    [
        ("auto", torch.float32, torch.float32),
        ("auto", torch.bfloat16, torch.bfloat16),
        ("float32", torch.bfloat16, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
    ],
)
def test_the_frozen_base_under_lora_has_the_type_asked_for(
    policy: Path, base_dtype: str, compute: torch.dtype, expected: torch.dtype
) -> None:
    config = PolicyConfig(path=str(policy), lora=LoraSettings(rank=2, base_dtype=base_dtype))
    loaded = load_policy(str(policy), config, compute_dtype=compute)
    assert {weight.dtype for weight in loaded.parameters() if not weight.requires_grad} == {expected}
    assert {weight.dtype for weight in loaded.parameters() if weight.requires_grad} == {torch.float32}


def test_a_lora_policys_state_is_its_adapters(policy: Path) -> None:
    """Frozen weights come with the base model; an adapter that is missing is still an error."""
    config = PolicyConfig(path=str(policy), lora=LoraSettings(rank=2))
    trained, loaded = (load_policy(str(policy), config) for _ in range(2))
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 1.0
    state = trained.state_dict()
    assert state
    assert all("lora_" in name for name in state)
    loaded.load_state_dict(state)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, trained.get_parameter(name)) == ("lora_" in name), name
    state.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded.load_state_dict(state)


def test_layers_that_the_model_lacks_are_refused_with_those_it_has(policy: Path) -> None:
    config = PolicyConfig(path=str(policy), lora=LoraSettings(rank=2, target_modules=["nothing"]))
    with pytest.raises(UserError, match=r"target_modules is \['nothing'\].*use all-linear, or some of .*q_proj"):
        load_policy(str(policy), config)


def test_all_weights_train_in_float32_whatever_autocast_computes_in(policy: Path) -> None:
    loaded = load_policy(str(policy), PolicyConfig(path=str(policy)), compute_dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_dropout_is_off_while_training_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "lambda_grpo_pl"):
        loaded = load_policy(str(tmp_path), PolicyConfig(path="gpt2"))
    assert caplog.messages == ["gpt2 has dropout (attn_pdrop, embd_pdrop, resid_pdrop): it is off while training."]
    assert loaded.training
    assert {module.p for module in loaded.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_a_model_that_cannot_be_packed_is_padded_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path, "stablelm")
    with caplog.at_level(logging.WARNING, "lambda_grpo_pl"):
        loaded = load_policy(path, PolicyConfig(path="stable"))
    assert caplog.messages == ["stable cannot be packed exactly: rows are padded (model.policy.packing: padded)."]
    assert loaded.layouts == PADDED
    assert loaded.layout_for(torch.tensor([9]), torch.tensor([3, 4])) == "padded"
    with pytest.raises(UserError, match=r"model\.policy\.packing is packed, .* set model\.policy\.packing to auto or"):
        load_policy(path, PolicyConfig(path="stable", packing="packed"))
    with pytest.raises(UserError, match="cannot be scored in the policy's layout packed"):
        load_reference(path, PolicyConfig(path="stable"), 1.0, torch.float32, ALL)
    assert (
        load_reference(path, PolicyConfig(path="stable", packing="padded"), 1.0, torch.float32, ALL).layouts == PADDED
    )


def test_rows_beyond_the_rotary_switch_are_refused() -> None:
    policy = make_policy()
    bounded = Policy(policy.model, policy.config, longest_row=20)
    assert bounded.layout_for(torch.tensor([10, 4]), torch.tensor([10, 3, 16, 1])) in ALL
    with pytest.raises(UserError, match=r"has 21 tokens\. Beyond 20 tokens .* rollout\.sampling\.max_tokens"):
        bounded.layout_for(torch.tensor([10, 4]), torch.tensor([10, 3, 17, 1]))


def test_an_interrupted_probe_leaves_the_temperature() -> None:
    policy = make_policy()
    policy.temperature = 0.7
    with pytest.raises(IndexError):
        policy.sequence_logprobs([[1, 99, 2]])  # beyond the vocabulary
    assert policy.temperature == 0.7


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"head_chunk": 0}, r"model\.policy\.head_chunk"), ({"tokens_per_micro_batch": 0}, r"model\.policy\.tokens_per")],
)
def test_settings_below_one_are_refused(settings: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=key):
        PolicyConfig(path="x", **settings)
    with pytest.raises(UserError, match=r"model\.policy\.lora\.rank"):
        LoraSettings(rank=0)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("read_weights", [True, False])
def test_every_rank_knows_all_tokens_that_end_a_response(
    tmp_path: Path, lora: LoraSettings | None, read_weights: bool
) -> None:
    """Under FSDP2 all ranks but one build the model without its weights; some end tokens are named beside these."""
    folder = save_tiny_policy(tmp_path)
    GenerationConfig(eos_token_id=[1, 7, 9]).save_pretrained(folder)
    policy = load_policy(str(folder), PolicyConfig(path=str(folder), lora=lora), read_weights=read_weights)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert eos_token_ids(tokenizer, policy.causal_lm) == (1, 7, 9)


def test_a_checkpoint_without_a_generation_configuration_is_built_too(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path)
    (folder / "generation_config.json").unlink()
    policy = load_policy(str(folder), PolicyConfig(path=str(folder)), read_weights=False)
    assert policy.causal_lm.generation_config.eos_token_id == 1


def test_the_device_that_trains_is_the_one_that_is_checked(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under FSDP2 weights are loaded on the CPU. None is where tensors are made by default, as under DDP."""
    checked: list[torch.device | None] = []

    def find(config: PretrainedConfig, settings: PolicyConfig, device: torch.device | None) -> Exactness:
        checked.append(device)
        return find_exactness(config, settings)

    monkeypatch.setattr(loading, "find_exactness", find)
    config, gpu = PolicyConfig(path=str(policy)), torch.device("cuda", 1)
    assert load_policy(str(policy), config, device=gpu).model.device.type == "cpu"
    assert load_reference(str(policy), config, 1.0, torch.float32, device=gpu).model.device.type == "cpu"
    load_policy(str(policy), config)
    assert checked == [gpu, gpu, torch.device("cpu")]
