"""Weights to a real server by NCCL (two GPUs) and CUDA IPC (one): never run so far, since no such machine was there."""

import os
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.sampling import (
    ServerSampler,
    ServerSettings,
    TransformersSampler,
    VllmSettings,
    check_sync,
    plan_probe,
)
from lambda_grpo_pl.sampling.server.addresses import free_port
from lambda_grpo_pl.sampling.server.settings import TransferName
from tests.sampling.parts import EOS, PAD, tiny_policy
from tests.sampling.real_servers import kill, save_other_policy, start, wait_for

pytest.importorskip("vllm", reason="vLLM is an extra")
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]
ENGINE = VllmSettings(dtype="bfloat16", max_model_len=64, max_num_seqs=16, kv_cache_gib=0.1, enforce_eager=True)


@pytest.mark.parametrize(("transfer", "num_gpus"), [("ipc", 1), ("nccl", 2)])
def test_a_server_has_the_weights_after_each_sync_and_after_a_restart(
    transfer: TransferName, num_gpus: int, tmp_path: Path
) -> None:
    """The server shares the trainer's GPU under CUDA IPC, and has the second one under NCCL."""
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"{transfer} needs {num_gpus} GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    environment, port = {"CUDA_VISIBLE_DEVICES": visible[num_gpus - 1]}, free_port("127.0.0.1")
    folder = save_other_policy(tmp_path)
    policy, scorer = tiny_policy(tied=True).cuda(), TransformersSampler([EOS], PAD)
    settings = ServerSettings(urls=[f"http://127.0.0.1:{port}"], transfer=transfer)
    sampler = ServerSampler(policy.config, [EOS], PAD, settings, torch.bfloat16)
    probe = plan_probe(48, torch.bfloat16, torch.float32, max_length=63)
    process = start(folder, port, ENGINE, transfer, environment)
    try:
        for restart in (False, False, True):
            if restart:
                kill(process)
                process = start(folder, port, ENGINE, transfer, environment)
            wait_for(sampler)
            with torch.no_grad():
                policy.model.layers[0].mlp.up_proj.weight.mul_(1.5)
            sampler.sync(policy)
            scorer.sync(policy)
            check_sync(sampler.engines[0], scorer.probe, *probe)
        sampler.close()
    finally:
        kill(process)
