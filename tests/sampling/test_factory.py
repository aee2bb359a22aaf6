"""Which sampler a name means, and what a builder hands to it."""

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import AdapterPlan, SamplerBuilder, TransformersSampler, VllmSettings, factory, uses_vllm

from .parts import EOS, PAD, tiny_policy

ADAPTERS = AdapterPlan(rank=4, targets=("q_proj",))


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("auto", None, False),
        ("auto", "0.32.0", True),
        ("vllm", "0.27.1", True),
        ("transformers", "0.32.0", False),
        ("transformers", "0.10.0", False),
    ],
)
def test_auto_is_vllm_where_it_is_installed(monkeypatch, name, version, expected):
    monkeypatch.setattr(factory, "installed_vllm", lambda: version)
    assert uses_vllm(name) == expected


@pytest.mark.parametrize(("name", "version"), [("vllm", None), ("vllm", "0.10.0"), ("auto", "0.33.0")])
def test_a_vllm_that_cannot_be_used_is_refused(monkeypatch, name, version):
    monkeypatch.setattr(factory, "installed_vllm", lambda: version)
    with pytest.raises(UserError, match=r"needs vLLM .*rollout\.sampler to transformers"):
        uses_vllm(name)


@pytest.mark.parametrize(
    ("name", "adapters", "expected"),
    [("vllm", None, True), ("vllm", ADAPTERS, False), ("transformers", ADAPTERS, True)],
)
def test_adapters_are_merged_unless_vllm_takes_them(monkeypatch, name, adapters, expected):
    monkeypatch.setattr(factory, "installed_vllm", lambda: "0.32.0")
    assert builder(name, adapters).merges_adapters == expected


def test_a_builder_hands_everything_to_vllm(monkeypatch):
    monkeypatch.setattr(factory, "installed_vllm", lambda: "0.32.0")
    monkeypatch.setattr(factory, "VllmSampler", lambda *arguments: arguments)
    made = builder("vllm", ADAPTERS)
    assert made.build() == (made.config, (EOS, 2), PAD, made.engine, ADAPTERS, 77, True)


def test_the_transformers_sampler_gets_a_model_only_to_receive_weights_in():
    for with_model in (False, True):
        sampler = builder("transformers", None).build(with_model)
        assert isinstance(sampler, TransformersSampler)
        assert sampler.eos_token_ids == (EOS, 2)
        assert (sampler._replica is not None) == with_model


def builder(name, adapters) -> SamplerBuilder:
    return SamplerBuilder(
        name=name,
        config=tiny_policy(tied=True).config,
        eos_token_ids=(EOS, 2),
        pad_token_id=PAD,
        engine=VllmSettings(),
        adapters=adapters,
        context_length=77,
        trust_remote_code=True,
    )
