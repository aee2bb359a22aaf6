"""Two real vLLM servers on this machine: weights arrive, samples are the policy's, a killed server is replaced."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.sampling import (
    SamplingSettings,
    ServerSampler,
    ServerSettings,
    TransformersSampler,
    VllmSettings,
    check_sync,
    plan_probe,
)
from lambda_grpo_pl.sampling.server import transfer
from lambda_grpo_pl.sampling.server.addresses import free_port

from . import cpu_transport
from .parts import EOS, PAD, random_prompts, tiny_policy
from .real_servers import kill, save_other_policy, start, wait_for

pytest.importorskip("vllm", reason="vLLM is an extra")
from lambda_grpo_pl.sampling.server import vllm_transfer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ENGINE = VllmSettings(dtype="float32", max_model_len=64, max_num_seqs=16, kv_cache_gib=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_other_policy(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    started = {port: start(folder, port, ENGINE) for port in (free_port("127.0.0.1") for _ in range(2))}
    yield started
    for process in started.values():
        kill(process)


def test_a_killed_server_is_replaced_and_takes_part_again(
    folder: Path, servers: dict[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    policy = tiny_policy(tied=True)
    urls = [f"http://127.0.0.1:{port}" for port in servers]
    settings = ServerSettings(urls=urls, weights_dir=str(tmp_path), max_retries=1)
    sampler = ServerSampler(policy.config, [EOS], PAD, settings)
    scorer = TransformersSampler([EOS], PAD)
    scorer.sync(policy)
    probe = plan_probe(48, torch.float32, torch.float32, max_length=63)
    prompts, sampling = random_prompts([3, 5, 4, 6, 2, 4]), SamplingSettings(max_tokens=8, num_samples=4)
    wait_for(sampler)
    sampler.sync(policy)
    for engine in sampler.engines:
        assert check_sync(engine, scorer.probe, *probe) < 1e-3
    expected = sampler.generate(prompts, sampling, seed=3)
    rows = [[*prompts.tokens(row // 4), *expected.tokens(row)] for row in range(24)]
    for row, scores in enumerate(scorer.probe(rows)):
        own = expected.logprobs[row, : int(expected.lengths[row])].tolist()
        assert own == pytest.approx(scores[-len(own) :], abs=1e-3)
    assert torch.equal(sampler.generate(prompts, sampling, seed=3).ids, expected.ids)

    first, port = next(iter(servers.values())), next(iter(servers))
    kill(first)
    assert torch.equal(sampler.generate(prompts, sampling, seed=3).ids, expected.ids)
    assert len(sampler.engines) == 1
    servers[port] = start(folder, port, ENGINE)
    wait_for(sampler)
    sampler.sync(policy)
    assert len(sampler.engines) == 2
    for engine in sampler.engines:
        assert check_sync(engine, scorer.probe, *probe) < 1e-3
    sampler.close()


def test_a_real_server_takes_broadcast_weights_and_is_connected_again_after_a_restart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, its worker and both ends of the NCCL transfer are vLLM's own; only NCCL itself is replaced."""
    cpu_transport.install(monkeypatch.setattr)
    monkeypatch.setattr(transfer, "trainer_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(vllm_transfer, "BUFFER_BYTES", 20_000)
    environment, port = {"PYTHONPATH": cpu_transport.plugin_path(tmp_path)}, free_port("127.0.0.1")
    policy = tiny_policy(tied=True)
    settings = ServerSettings(urls=[f"http://127.0.0.1:{port}"], transfer="nccl", max_retries=1)
    sampler = ServerSampler(policy.config, [EOS], PAD, settings, torch.float32)
    scorer = TransformersSampler([EOS], PAD)
    probe = plan_probe(48, torch.float32, torch.float32, max_length=63)
    process = start(folder, port, ENGINE, "nccl", environment)
    try:
        wait_for(sampler)
        for change in (1.0, 1.5):
            with torch.no_grad():
                policy.model.layers[0].mlp.up_proj.weight.mul_(change)
            sampler.sync(policy)
            scorer.sync(policy)
            assert check_sync(sampler.engines[0], scorer.probe, *probe) < 1e-3
        kill(process)
        process = start(folder, port, ENGINE, "nccl", environment)
        wait_for(sampler)
        sampler.sync(policy)
        assert check_sync(sampler.engines[0], scorer.probe, *probe) < 1e-3
        sampler.close()
    finally:
        kill(process)
