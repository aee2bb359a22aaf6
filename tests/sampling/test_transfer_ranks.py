"""Two ranks with a sharded policy send its weights together, whatever a server does, and agree on what came of it."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import ServerSampler, ServerSettings
from lambda_grpo_pl.sampling.server import client, transfer
from lambda_grpo_pl.sampling.server import folder as folder_module
from tests.ranks import run_on_two_ranks

from .fake_server import FakeServer
from .parts import EOS, PAD, tiny_policy

pytest.importorskip("vllm", reason="vLLM is an extra")


def start_servers(policy: Any, backend: str) -> list[Any]:
    """Two on rank 0; their addresses go to the other rank."""
    from .fake_transfer import FakeTransferServer

    if backend == "folder":
        return [FakeServer(policy.config, EOS, PAD) for _ in range(2)]
    return [FakeTransferServer(policy.config, EOS, PAD, backend) for _ in range(2)]


def sync_in_all_cases(rank: int, policy: Any, state: dict[str, torch.Tensor], backend: str, folder: str) -> None:
    servers = start_servers(policy, backend) if rank == 0 else []
    urls: list[Any] = [[server.url for server in servers]]
    dist.broadcast_object_list(urls)
    settings = ServerSettings(urls=urls[0], transfer=backend, weights_dir=folder, max_retries=0)
    sampler = ServerSampler(policy.config, [EOS], PAD, settings)
    report = sampler.sync(policy)
    assert report == sampler.last_sync
    assert set(report.sent) == state.keys()
    assert len(sampler.engines) == 2
    if servers and backend != "folder":
        for server in servers:
            assert [name for name, _ in server.received] == list(state)
            assert all(torch.equal(weight, state[name]) for name, weight in server.received)
    for moment in ("start_weight_update", "update_weights"):  # before and after the first tensor is read
        if servers:
            servers[0].fails_in, servers[0].fault = moment, "dead" if backend == "folder" else ""
        sampler.sync(policy)  # both ranks know it, and neither waits for the other
        assert [engine.url for engine in sampler.engines] == urls[0][1:]
        if servers:
            servers[0].fails_in, servers[0].fault = "", ""
        sampler.sync(policy)
        assert len(sampler.engines) == 2
    for server in servers:
        server.fault = "dead"
    with pytest.raises(UserError, match="None of the servers"):
        sampler.sync(policy)
    sampler.close()
    for server in servers:
        server.stop()


def fill_the_disk(policy: Any, folder: str) -> None:
    """The write fails at the first tensor; both ranks read the rest, and end with the sentence."""
    settings = ServerSettings(urls=["http://127.0.0.1:1"], weights_dir=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_module, "save_file", fail_to_write)
        patch.setattr(folder_module, "SHARD_BYTES", 1)
        with pytest.raises(UserError, match="Weights could not be written"):
            ServerSampler(policy.config, [EOS], PAD, settings).sync(policy)


def fail_to_write(tensors: Any, file: Path) -> None:
    raise OSError("No space left on device")


def sync_on_one_of_two_ranks(rank: int, folder: str) -> None:
    from . import cpu_transport

    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    cpu_transport.install(gpu=f"GPU-{rank}")
    transfer.trainer_device = lambda name: torch.device("cpu")
    client.time.sleep = lambda seconds: None
    policy = tiny_policy(tied=True)
    state = copy.deepcopy(policy.state_dict())
    for layer in policy.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(policy, mesh=init_device_mesh("cpu", (2,)))
    fill_the_disk(policy, folder)
    for backend in ("folder", "nccl", "ipc"):
        sync_in_all_cases(rank, policy, state, backend, folder)
    dist.barrier()


def test_two_ranks_send_a_sharded_policy(tmp_path: Path) -> None:
    run_on_two_ranks(sync_on_one_of_two_ranks, str(tmp_path))
