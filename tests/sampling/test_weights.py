"""Weights leave the policy whole, under Hugging Face names, and merged."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config

from lambda_grpo_pl.sampling import AdapterPlan, plan_adapters, policy_weights
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat
from lambda_grpo_pl.sampling.weights import weight_layout, weight_names

from .parts import tiny_policy


def adapted(policy: nn.Module, **changes: object) -> nn.Module:
    """A LoRA policy whose adapters are not zero."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    return get_peft_model(policy, LoraConfig(**{**options, **changes}))


def test_a_tied_head_is_sent_under_both_of_its_names():
    names = weight_names(tiny_policy(tied=True))
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(names)
    assert names == weight_names(tiny_policy(tied=True), changed_only=True)


def test_plain_weights_are_the_state_itself(policy):
    state = policy.state_dict()
    weights = dict(policy_weights(policy))
    assert weights.keys() == state.keys()
    assert all(weights[name].data_ptr() == state[name].data_ptr() for name in state)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_adapters_are_merged_as_peft_merges_them(policy, rank_stabilised):
    wrapped = adapted(policy, use_rslora=rank_stabilised, modules_to_save=["lm_head"])
    with torch.no_grad():
        wrapped.get_base_model().lm_head.modules_to_save.default.weight.add_(1)
    names, weights = weight_names(wrapped), dict(policy_weights(wrapped))
    merged = wrapped.merge_and_unload().state_dict()
    assert names == list(weights)
    assert weights.keys() == merged.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=0)


def test_adapters_by_themselves_rebuild_the_merged_weights(policy):
    """B comes scaled; once the base has been sent, A and B are all that travels, and nothing aliases B."""
    wrapped = adapted(policy, lora_alpha=12, rank_pattern={"down_proj": 2}, alpha_pattern={"down_proj": 3})
    pairs = dict(policy_weights(wrapped, merge=False))
    assert [name for name, *_ in weight_layout(wrapped, merge=False)] == list(pairs)
    assert all(
        (pairs[name].shape, pairs[name].dtype) == (shape, dtype)
        for name, shape, dtype in weight_layout(wrapped, merge=False)
    )
    merged = dict(policy_weights(wrapped))
    changed = dict(policy_weights(wrapped, changed_only=True, merge=False))
    assert set(changed) == set(pairs) - set(merged) == set(weight_names(wrapped, changed_only=True, merge=False))
    assert len(changed) == 2 * 2 * 2  # layers × adapted modules × (A, B)
    for name, weight in merged.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in changed:
            pairs[name] = pairs[name] + changed[f"{layer}.lora_B.weight"] @ changed[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(pairs[name], weight, atol=1e-6, rtol=0)
    assert plan_adapters(wrapped) == AdapterPlan(rank=4, targets=("down_proj", "q_proj"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=False"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.* is also trainable"),
        ({"bias": "lora_only"}, "bias is also trainable"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens.* is also trainable"),
        ({"target_modules": ["lm_head", "q_proj"]}, "lm_head has an adapter"),
    ],
)
def test_what_vllm_would_not_be_sent_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan_adapters(adapted(tiny_policy(tied=False), **changes))


def test_a_policy_without_adapters_has_none_to_send(policy):
    with pytest.raises(ValueError, match=r"set model\.policy\.lora"):
        plan_adapters(policy)


def test_adapters_that_are_off_or_merged_already_add_nothing(policy):
    wrapped = adapted(policy)
    name = "model.layers.0.self_attn.q_proj.weight"
    base = wrapped.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    with wrapped.disable_adapter():
        assert torch.equal(dict(policy_weights(wrapped))[name], base)
    assert not torch.equal(dict(policy_weights(wrapped))[name], base)
    wrapped.merge_adapter()
    assert torch.equal(dict(policy_weights(wrapped))[name], base)


def test_with_adapters_only_their_modules_and_fused_siblings_changed(policy):
    names = weight_names(adapted(policy, target_modules=["q_proj"]), changed_only=True)
    assert names
    assert all(".self_attn." in name for name in names)
    assert {name.split(".")[-2] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_adapters_that_are_no_plain_sum_are_refused(policy):
    with pytest.raises(ValueError, match="use_dora=False"):
        list(policy_weights(adapted(policy, use_dora=True)))


def test_names_of_compiled_and_checkpointed_wrappers_disappear(policy):
    expected = weight_names(policy)
    policy.model.layers[0] = torch.compile(policy.model.layers[0])
    assert any("_orig_mod" in name for name in policy.state_dict())
    assert weight_names(policy) == expected


def test_looking_up_a_checkpoints_format_leaves_the_policys_configuration_alone() -> None:
    """The policy and the engine share the object; another attention in it would break the policy's packed rows."""
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, vocab_size=8
    )
    config._attn_implementation = "sdpa"
    CheckpointFormat(config)
    assert config._attn_implementation == "sdpa"
