"""Which architectures vLLM takes weights of in place: the table of docs/samplers.md, made by running it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import (
    SyncError,
    TransformersSampler,
    VllmSampler,
    VllmSettings,
    check_sync,
    probe_sequences,
)
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat, checkpoint_names, missing_names
from lambda_grpo_pl.sampling.vllm.compat import import_vllm

from .parts import update

TABLE = Path(__file__).parents[2] / "docs" / "samplers.md"
BASE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 96,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 512, "query_pre_attn_scalar": 32},
    "granite": {},
    "qwen3_moe": {**EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "qwen2_moe": {**EXPERTS, "decoder_sparse_step": 1, "shared_expert_intermediate_size": 32, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi": {},
    "phi3": {"sliding_window": None},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "starcoder2": {"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "gpt_neox": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
}


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**BASE, **CONFIGS[name]})
    return AutoModelForCausalLM.from_config(config).float().eval()


def expected(name: str) -> str:
    """What docs/samplers.md says: `exact`, `refused`, or `another model` where the first self-test ends the run."""
    rows = [line.split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    table = {row[1].strip().strip("`"): row[2].strip() for row in rows}
    return table[name]


@pytest.fixture
def fresh_groups() -> Iterator[None]:
    """VLLM keeps its process groups between engines, and a dense model makes none for experts."""
    yield
    from vllm.distributed import parallel_state

    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_groups")
@pytest.mark.parametrize("name", CONFIGS)
def test_after_two_syncs_the_engine_computes_the_model_or_was_refused(name: str) -> None:
    model = tiny(name)
    scorer = TransformersSampler([1], 0)
    scorer.sync(model)
    try:
        engine = VllmSampler(model.config, [1], 0, VllmSettings(max_model_len=128, kv_cache_gib=0.125))
        for _ in range(2):
            engine.sync(model)
            assert check_sync(engine, scorer.probe, probe_sequences(128, 64), 1e-3) < 1e-3
            update(model, 0.3, torch.Generator().manual_seed(0))
        outcome = "exact"
    except UserError as refusal:
        assert "rollout.sampler to transformers" in str(refusal)  # noqa: PT017  both outcomes are right
        outcome = "refused"
    except SyncError as failure:
        assert "the sampler computes this model differently: set rollout.sampler to transformers" in str(failure)  # noqa: PT017
        outcome = "another model"
    assert outcome == expected(name)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "qwen2_moe", "olmoe"])
def test_experts_travel_one_by_one_under_their_checkpoints_names(name: str, tmp_path: Path) -> None:
    """As `save_pretrained` writes them, although each tensor is converted for itself."""
    model = tiny(name)
    sent = dict(CheckpointFormat(model.config).convert(model.state_dict().items()))
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() <= sent.keys()
    assert sent.keys() - saved.keys() <= {"lm_head.weight"}
    assert all(torch.equal(sent[key], saved[key]) for key in saved)
    assert any(".experts.3." in key for key in saved)
    assert CheckpointFormat(model.config).names(model.state_dict()) == set(sent)


def test_an_experts_tensor_of_the_engine_is_missing_until_its_layer_was_sent() -> None:
    engine = ["a.weight", "layers.0.mlp.experts.w13_weight", "layers.1.mlp.experts.w13_weight"]
    assert missing_names(engine, ["a.weight", "layers.1.mlp.experts.0.gate_proj.weight"]) == [engine[1]]
    assert missing_names(engine, []) == engine


def test_a_gate_that_vllm_also_registers_in_the_shared_expert_has_one_name() -> None:
    """Qwen2-MoE: a sync sends `shared_expert_gate` alone."""
    layer, expert = torch.nn.Module(), torch.nn.Module()
    layer.shared_expert_gate = expert.expert_gate = torch.nn.Linear(2, 1, bias=False)
    layer.shared_expert = expert
    layers = torch.nn.ModuleDict({"mlp": layer})
    assert set(checkpoint_names(layers)) == {"mlp.shared_expert_gate.weight"}


@pytest.mark.parametrize("architecture", ["Olmo2ForCausalLM", "UnknownForCausalLM"])
def test_an_architecture_that_vllm_runs_with_the_class_of_transformers_is_refused(architecture: str) -> None:
    """It replaces methods of that class, and so of the policy in the same process."""
    pytest.importorskip("vllm")
    with pytest.raises(UserError, match=f"no implementation of {architecture} .*set rollout.sampler to transformers"):
        import_vllm(architecture)
    assert import_vllm("LlamaForCausalLM").__name__ == "vllm"
