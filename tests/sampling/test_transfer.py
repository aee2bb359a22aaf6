"""Weights from GPU to GPU, without one: vLLM's own ends of the transfer, on a transport that needs no CUDA."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import (
    SamplerBuilder,
    SamplerProcess,
    SamplingSettings,
    ServerSampler,
    ServerSettings,
    SyncError,
    TransformersSampler,
    VllmSettings,
    check_sync,
    factory,
    plan_probe,
    policy_weights,
)
from lambda_grpo_pl.sampling.server import addresses, client, transfer

from .parts import EOS, PAD, random_prompts, tiny_policy

pytest.importorskip("vllm", reason="vLLM is an extra")
from lambda_grpo_pl.sampling.server import vllm_transfer

from . import cpu_transport
from .fake_transfer import FakeTransferServer

pytestmark = pytest.mark.filterwarnings("ignore:Tensor '.*' has size")
BACKENDS = ("nccl", "ipc")
ROUND = ["start_weight_update", "update_weights", "finish_weight_update", "update_weight_version"]
FIRST = ["shutdown_weight_transfer_engine", "init_weight_transfer_engine", *ROUND]
MakeServer = Callable[[str], FakeTransferServer]


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_transport.install(monkeypatch.setattr)
    monkeypatch.setattr(transfer, "trainer_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # read by vLLM's worker, which is in this process
    monkeypatch.setattr(vllm_transfer, "BUFFER_BYTES", 20_000)
    monkeypatch.setattr(cpu_transport.StoreCommunicator, "pieces", [])


@pytest.fixture
def policy() -> Any:
    return tiny_policy(tied=True)


@pytest.fixture
def make_server(policy: Any) -> Iterator[MakeServer]:
    made: list[FakeTransferServer] = []

    def make(backend: str) -> FakeTransferServer:
        made.append(FakeTransferServer(policy.config, EOS, PAD, backend))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def make_sampler(policy: Any, servers: list[FakeTransferServer], dtype: Any = None, **changes: Any) -> ServerSampler:
    urls = [server.url for server in servers]
    settings = ServerSettings(**{"urls": urls, "transfer": servers[0].backend, "max_retries": 0} | changes)
    return ServerSampler(policy.config, [EOS], PAD, settings, dtype)


def change(policy: Any) -> None:
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.5)


def assert_received(server: FakeTransferServer, policy: Any, dtype: torch.dtype = torch.float32) -> None:
    """Names, types, shapes and values, in the policy's order."""
    expected = [(name, weight.to(dtype)) for name, weight in policy_weights(policy)]
    assert [name for name, _ in server.received] == [name for name, _ in expected]
    for (_, ours), (name, wanted) in zip(server.received, expected, strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, wanted), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_weights_arrive_in_the_documented_order(backend: str, policy: Any, make_server: MakeServer) -> None:
    """Two servers, two syncs: connected once, each update in one round, the tied head under both of its names."""
    servers = [make_server(backend) for _ in range(2)]
    sampler = make_sampler(policy, servers)
    report = sampler.sync(policy)
    for server in servers:
        assert_received(server, policy)
        assert list(dict.fromkeys(server.requests)) == FIRST
    assert not report.missing
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(report.sent)
    assert report.num_bytes == sum(weight.nbytes for _, weight in policy_weights(policy))
    for server in servers:
        server.requests.clear()
    change(policy)
    sampler.sync(policy)
    for server in servers:
        assert_received(server, policy)
        assert list(dict.fromkeys(server.requests)) == ["weight_info", *ROUND]
    assert servers[0].version == servers[1].version != "default"
    assert sampler.generate(random_prompts([3, 5]), SamplingSettings(max_tokens=6, num_samples=3), 3).ids.shape[0] == 6
    sampler.close()


def test_pieces_stay_small_and_tensors_are_read_one_at_a_time(policy: Any, make_server: MakeServer) -> None:
    """A piece is closed once it exceeds the buffer, so it is at most that plus one tensor."""
    make_sampler(policy, [make_server("nccl")]).sync(policy)
    sizes = [weight.nbytes for _, weight in policy_weights(policy)]
    pieces = cpu_transport.StoreCommunicator.pieces
    assert sum(pieces) == sum(sizes)
    assert len(pieces) > 4
    assert max(pieces) <= 20_000 + max(sizes)


def test_shared_memory_holds_a_piece_and_every_tensor_fits(policy: Any, make_server: MakeServer) -> None:
    cpu_transport.SHARED.clear()
    server = make_server("ipc")
    make_sampler(policy, [server]).sync(policy)
    largest = max(weight.nbytes for _, weight in policy_weights(policy))
    assert largest > 20_000
    assert [buffer.nbytes for buffer in cpu_transport.SHARED.values()] == [largest]
    assert server.requests.count("update_weights") > 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_rounded_to_the_engines_type_on_the_way(backend: str, policy: Any, make_server: MakeServer) -> None:
    server = make_server(backend)
    report = make_sampler(policy, [server], torch.bfloat16).sync(policy)
    assert_received(server, policy, torch.bfloat16)
    assert report.num_bytes == sum(weight.nbytes for _, weight in policy_weights(policy)) // 2


def test_adapters_arrive_merged(policy: Any, make_server: MakeServer) -> None:
    adapted = get_peft_model(policy, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    server = make_server("nccl")
    make_sampler(policy, [server]).sync(adapted)
    assert_received(server, adapted)
    merged = adapted.merge_and_unload().state_dict()
    for name, weight in server.received:
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_self_test_finds_the_server_that_kept_old_weights(
    backend: str, policy: Any, make_server: MakeServer
) -> None:
    servers = [make_server(backend) for _ in range(2)]
    sampler = make_sampler(policy, servers)
    sampler.sync(policy)
    servers[1].fault = "stale"
    change(policy)
    sampler.sync(policy)
    scorer = TransformersSampler([EOS], PAD)
    scorer.sync(policy)
    probe = plan_probe(48, torch.float32, torch.float32, max_length=64)
    assert check_sync(sampler.engines[0], scorer.probe, *probe) < 1e-4
    with pytest.raises(SyncError):
        check_sync(sampler.engines[1], scorer.probe, *probe)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_restarted_is_connected_again(backend: str, policy: Any, make_server: MakeServer) -> None:
    """Unnoticed by requests: its worker knows no group, and a broadcast to it would wait forever."""
    servers = [make_server(backend) for _ in range(2)]
    sampler = make_sampler(policy, servers)
    sampler.sync(policy)
    servers[0].start_worker()
    for server in servers:
        server.requests.clear()
    sampler.sync(policy)
    assert list(dict.fromkeys(servers[0].requests)) == ["weight_info", *FIRST]
    assert "init_weight_transfer_engine" not in servers[1].requests
    assert_received(servers[0], policy)
    assert len(sampler.engines) == 2


@pytest.mark.parametrize(
    ("backend", "moment"),
    # vLLM's rendezvous for NCCL waits 300 s for a server that fails in it
    [("ipc", "init_weight_transfer_engine"), *((backend, moment) for backend in BACKENDS for moment in ROUND)],
)
def test_a_server_that_fails_is_left_out_and_comes_back_with_the_weights(
    backend: str, moment: str, policy: Any, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """In whichever request it fails, the other server has the weights; a broadcast to the dead one is given up."""
    servers = [make_server(backend) for _ in range(2)]
    sampler = make_sampler(policy, servers)
    if moment != "init_weight_transfer_engine":
        sampler.sync(policy)
        change(policy)
    servers[0].fails_in = moment
    sampler.sync(policy)
    assert [engine.url for engine in sampler.engines] == [servers[1].url]
    assert_received(servers[1], policy)
    assert f"{servers[0].url} is left out" in caplog.text
    assert moment in caplog.text
    servers[0].fails_in, servers[0].fault = "", "dead"
    change(policy)
    sampler.sync(policy)
    assert len(sampler.engines) == 1
    servers[0].fault = ""
    servers[0].requests.clear()
    sampler.sync(policy)
    assert len(sampler.engines) == 2
    is_connected_again = "init_weight_transfer_engine" in servers[0].requests
    assert is_connected_again == (moment != "update_weight_version"), "by then the weights have arrived"
    assert_received(servers[0], policy)
    sampler.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_that_a_killed_trainer_left_open_is_ended(backend: str, policy: Any, make_server: MakeServer) -> None:
    server = make_server(backend)
    server.is_updating = True
    make_sampler(policy, [server]).sync(policy)
    assert_received(server, policy)
    assert server.requests[2:5] == ["start_weight_update", "finish_weight_update", "start_weight_update"]


def test_an_error_of_the_policy_is_no_servers_fault(
    policy: Any, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make_sampler(policy, [make_server("ipc")])

    def fail(weights: Any) -> Iterator[tuple[str, Tensor]]:
        yield next(iter(weights))
        raise RuntimeError("of the policy")

    monkeypatch.setattr(
        "lambda_grpo_pl.sampling.server.stream.policy_weights", lambda policy: fail(policy_weights(policy))
    )
    with pytest.raises(RuntimeError, match="of the policy"):
        sampler.sync(policy)


def test_what_is_in_memory_is_sent_too(policy: Any, make_server: MakeServer) -> None:
    """As the separate process of one_step_off has it: an iterator that can be read once, for two servers."""
    servers = [make_server("nccl") for _ in range(2)]
    report = make_sampler(policy, servers).receive(iter(list(policy_weights(policy))[:-1]))
    assert report.missing == (list(policy_weights(policy))[-1][0],)
    assert len(servers[1].received) == len(report.sent)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm": "0.27.1"}, r"http.* has vLLM 0\.27\.1: install a newer one there, or set .* to folder"),
        ({"backend": ""}, "was not started for .* with --weight-transfer-config"),
        ({"backend": "sparse_nccl"}, "was not started for .* with --weight-transfer-config"),
    ],
)
def test_a_server_that_cannot_take_weights_so_is_refused(
    changes: dict[str, Any], message: str, backend: str, policy: Any, make_server: MakeServer
) -> None:
    server = make_server(backend)
    sampler = make_sampler(policy, [server])
    vars(server).update(changes)
    with pytest.raises(UserError, match=message):
        sampler.sync(policy)
    assert not server.requests


def test_a_server_that_does_not_unpickle_is_refused(policy: Any, make_server: MakeServer) -> None:
    server = make_server("ipc")
    server.environment = {}
    with pytest.raises(UserError, match="VLLM_ALLOW_INSECURE_SERIALIZATION=1"):
        make_sampler(policy, [server]).sync(policy)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trainer_without_a_gpu_or_with_an_old_vllm_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(tied=True)
    settings = ServerSettings(urls=["http://127.0.0.1:1"], transfer=backend)
    for version, message in ((None, "this machine has no vLLM"), ("0.27.1", r"this machine has vLLM 0\.27\.1")):
        monkeypatch.setattr(transfer, "installed_vllm", lambda version=version: version)
        with pytest.raises(UserError, match=message):
            ServerSampler(policy.config, [EOS], PAD, settings)
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(
            UserError, match=r"a CUDA GPU, and the trainer has none: set rollout\.server\.transfer to f"
        ):
            ServerSampler(policy.config, [EOS], PAD, settings)


def test_a_sampler_process_of_each_rank_is_refused(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "is_distributed", lambda: True)
    server = ServerSettings(urls=["http://127.0.0.1:1"], transfer="nccl")
    parts: dict[str, Any] = {"config": policy.config, "eos_token_ids": (EOS,), "pad_token_id": PAD}
    with pytest.raises(UserError, match=r"one_step_off\.enabled every rank"):
        SamplerProcess(SamplerBuilder(name="server", engine=VllmSettings(), server=server, **parts))


def test_the_address_of_the_trainer_is_found_or_explained() -> None:
    assert addresses.local_address("http://127.0.0.1:8000") == "127.0.0.1"
    assert addresses.free_port("127.0.0.1") > 0
    with pytest.raises(UserError, match=r"set rollout\.server\.trainer_address"):
        addresses.local_address("http://no-such-host.invalid:8000")
    with pytest.raises(UserError, match=r"trainer_address is 203\.0\.113\.7, which is not"):
        addresses.free_port("203.0.113.7")
