"""Rollouts from servers: which one samples does not matter, and one that fails is noticed and left out."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import (
    SamplingSettings,
    ServerSampler,
    ServerSettings,
    SyncError,
    VllmSettings,
    check_sync,
    plan_probe,
)
from lambda_grpo_pl.sampling.server import client
from lambda_grpo_pl.sampling.server.launch import ServerLaunch

from .fake_server import KEY, FakeServer
from .parts import EOS, PAD, check_groups_are_heard, random_prompts, tiny_policy

SETTINGS = SamplingSettings(max_tokens=6, num_samples=3)
PROMPTS = random_prompts([3, 5, 4, 6, 2, 4])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)


@pytest.fixture
def policy() -> Any:
    return tiny_policy(tied=True)


@pytest.fixture
def servers(policy: Any) -> Iterator[list[FakeServer]]:
    made = [FakeServer(policy.config, EOS, PAD) for _ in range(2)]
    yield made
    for server in made:
        server.stop()


def make_sampler(policy: Any, servers: list[FakeServer], folder: Path, **changes: Any) -> ServerSampler:
    settings = ServerSettings(
        **{"urls": [server.url for server in servers], "weights_dir": str(folder), "max_retries": 1} | changes
    )
    return ServerSampler(policy.config, [EOS], PAD, settings)


@pytest.fixture
def sampler(policy: Any, servers: list[FakeServer], tmp_path: Path) -> Iterator[ServerSampler]:
    made = make_sampler(policy, servers, tmp_path / "weights")
    made.sync(policy)
    yield made
    made.close()


def assert_same(ours: Completions, others: Completions) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


def test_both_servers_work_and_which_one_does_not_matter(
    policy: Any, servers: list[FakeServer], sampler: ServerSampler, tmp_path: Path
) -> None:
    together = sampler.generate(PROMPTS, SETTINGS, 3)
    assert all(server.num_groups for server in servers)
    alone = make_sampler(policy, servers[:1], tmp_path / "other")
    alone.sync(policy)
    assert_same(alone.generate(PROMPTS, SETTINGS, 3), together)
    assert not torch.equal(alone.generate(PROMPTS, SETTINGS, 4).ids, together.ids)


def test_a_server_that_restarts_between_sync_and_rollout_does_not_sample_its_first_weights(
    policy: Any, servers: list[FakeServer], sampler: ServerSampler
) -> None:
    expected = sampler.generate(PROMPTS, SETTINGS, 3)
    servers[0].restart(tiny_policy(tied=True, seed=9))
    assert_same(sampler.generate(PROMPTS, SETTINGS, 3), expected)
    assert [engine.url for engine in sampler.engines] == [servers[1].url]
    sampler.sync(policy)
    assert len(sampler.engines) == 2
    assert_same(sampler.generate(PROMPTS, SETTINGS, 3), expected)


def test_a_server_to_which_another_run_has_sent_weights_is_noticed(
    servers: list[FakeServer], sampler: ServerSampler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_policy(tied=True, seed=9)
    make_sampler(other, servers, tmp_path / "other").sync(other)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="None of the servers"):
        sampler.generate(PROMPTS, SETTINGS, 3)
    assert "another run uses it" in caplog.text


def test_each_group_is_heard_when_it_has_ended(sampler: ServerSampler) -> None:
    check_groups_are_heard(sampler, PROMPTS, SETTINGS)


def test_greedy_responses_are_drawn_once_and_repeated(servers: list[FakeServer], sampler: ServerSampler) -> None:
    completions = sampler.generate(PROMPTS, SamplingSettings(temperature=0.0, max_tokens=4, num_samples=3), 0)
    assert completions.ids.shape[0] == 18
    for prompt in range(6):
        rows = completions.ids[3 * prompt : 3 * prompt + 3]
        assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("fault", ["dies", "500", "nan", "short", "fewer", "malformed", "hangs"])
def test_what_a_failing_server_had_is_sampled_by_another_with_the_same_seeds(
    fault: str,
    policy: Any,
    servers: list[FakeServer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    patience = 3.0 if fault == "hangs" else 60.0  # on a busy machine a good answer takes more than a second
    sampler = make_sampler(policy, servers, tmp_path / "weights", timeout_s=patience, max_retries=0)
    sampler.sync(policy)
    expected = sampler.generate(PROMPTS, SETTINGS, 3)
    servers[0].fault = fault
    with caplog.at_level(logging.WARNING):
        assert_same(sampler.generate(PROMPTS, SETTINGS, 3), expected)
    assert [engine.url for engine in sampler.engines] == [servers[1].url]
    (message,) = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert servers[0].url in message


def test_a_server_that_comes_back_gets_the_weights_first(
    policy: Any, servers: list[FakeServer], sampler: ServerSampler, caplog: pytest.LogCaptureFixture
) -> None:
    servers[0].fault = "dead"
    sampler.generate(PROMPTS, SETTINGS, 3)
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    sampler.sync(policy)
    assert len(sampler.engines) == 1
    servers[0].fault = ""
    sampler.sync(policy)
    assert len(sampler.engines) == 2
    assert "is back and has the present weights" in caplog.text
    before = servers[0].num_groups
    sampler.generate(PROMPTS, SETTINGS, 3)
    assert servers[0].num_groups > before
    assert sampler.engines[0].probe([[3, 4, 5]]) == sampler.engines[1].probe([[3, 4, 5]])


def test_no_server_left_ends_in_a_sentence(servers: list[FakeServer], sampler: ServerSampler) -> None:
    for server in servers:
        server.fault = "dead"
    with pytest.raises(UserError, match=r"None of the servers in rollout\.server\.urls answers .* --resume"):
        sampler.generate(PROMPTS, SETTINGS, 3)


def test_the_self_test_sees_each_server(policy: Any, servers: list[FakeServer], sampler: ServerSampler) -> None:
    servers[1].fault = "stale"
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    sampler.sync(policy)
    probe = plan_probe(48, torch.float32, torch.float32, max_length=64)

    def own(sequences: list[list[int]]) -> list[list[float]]:
        return sampler.engines[0].probe(sequences)

    assert check_sync(sampler.engines[0], own, *probe) == 0
    with pytest.raises(SyncError):
        check_sync(sampler.engines[1], own, *probe)


def test_an_error_in_a_listener_is_raised_and_not_a_servers_fault(sampler: ServerSampler) -> None:
    def fail(number: int, group: Completions) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sampler.generate(PROMPTS, SETTINGS, 3, fail)
    assert len(sampler.engines) == 2


def test_only_the_newest_weights_are_kept_and_none_after_the_end(
    policy: Any, servers: list[FakeServer], tmp_path: Path
) -> None:
    sampler = make_sampler(policy, servers, tmp_path / "weights")
    for _ in range(3):
        report = sampler.sync(policy)
        assert len(list((tmp_path / "weights").iterdir())) == 1
    assert not report.missing
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(report.sent)
    sampler.close()
    assert not list((tmp_path / "weights").iterdir())


def test_what_is_not_sent_is_missing(policy: Any, sampler: ServerSampler) -> None:
    weights = {name: weight for name, weight in policy.state_dict().items() if name != "lm_head.weight"}
    assert sampler.receive(weights.items()).missing == ("lm_head.weight",)


def test_the_key_comes_from_the_environment(policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(policy.config, EOS, PAD, key=KEY)
    with pytest.raises(UserError, match=r"rollout\.server\.api_key_env"):
        make_sampler(policy, [server], tmp_path).sync(policy)
    with pytest.raises(UserError, match="THE_KEY, but that environment variable is not set"):
        make_sampler(policy, [server], tmp_path, api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", KEY)
    make_sampler(policy, [server], tmp_path, api_key_env="THE_KEY").sync(policy)
    server.stop()


def test_a_server_that_takes_no_weights_is_explained(policy: Any, servers: list[FakeServer], tmp_path: Path) -> None:
    servers[0].fault = "no-dev-mode"
    with pytest.raises(UserError, match="VLLM_SERVER_DEV_MODE=1"):
        make_sampler(policy, servers[:1], tmp_path).sync(policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"urls": None}, r"rollout\.server\.urls names no server"),
        ({"weights_dir": None}, r"rollout\.server\.weights_dir is not set"),
        ({"urls": ["127.0.0.1:8000"]}, "write it as http://HOST:PORT"),
        ({"urls": ["http://me:word@127.0.0.1:8000"]}, "a user or password.*api_key_env"),
        ({"urls": ["http://8.8.8.8:8000"]}, "ignore the API key"),
        ({"urls": ["http://gpu.example.com:8000"]}, "ignore the API key"),
        ({"transfer": "ipc"}, "CUDA IPC works within one machine.*loopback address"),
        ({"concurrent_groups": 0}, r"rollout\.server\.concurrent_groups"),
        ({"timeout_s": 0.0}, r"rollout\.server\.timeout_s"),
        ({"max_retries": -1}, r"rollout\.server\.max_retries"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_settings(changes)


def make_settings(changes: dict[str, Any]) -> ServerSettings:
    settings = ServerSettings(**{"urls": ["http://10.0.0.1:80"], "weights_dir": "w"} | changes)
    settings.require_urls()
    settings.require_folder()
    return settings


def test_cuda_ipc_takes_loopback_addresses() -> None:
    ServerSettings(urls=["http://localhost:8000", "http://127.0.0.2:8000", "http://[::1]:8000"], transfer="ipc")


def test_public_addresses_can_be_allowed() -> None:
    ServerSettings(urls=["https://gpu.example.com:8000"], allow_public=True)


def test_the_command_says_what_the_configuration_says() -> None:
    launch = ServerLaunch(
        model="m", context_length=512, engine=VllmSettings(dtype="float32", max_num_seqs=8), port=8001, data_parallel=2
    )
    line = " ".join(launch.command)
    for part in (
        "vllm.entrypoints.openai.api_server",
        "--model m",
        "--port 8001",
        "--host 127.0.0.1",
        "--dtype float32",
        "--max-model-len 512",
        "--max-num-seqs 8",
        "--logprobs-mode processed_logprobs",
        "--data-parallel-size 2",
    ):
        assert part in line
    assert launch.environment == {"VLLM_SERVER_DEV_MODE": "1"}


def test_a_server_is_started_for_the_transfer_that_is_set() -> None:
    parts = {"model": "m", "context_length": 512, "engine": VllmSettings(gpu_memory_utilization=0.4)}
    folder, nccl, ipc = (ServerLaunch(**parts, transfer=name) for name in ("folder", "nccl", "ipc"))
    assert "--weight-transfer-config" not in folder.command
    for launch, backend in ((nccl, "nccl"), (ipc, "ipc")):
        value = launch.command[launch.command.index("--weight-transfer-config") + 1]
        assert json.loads(value) == {"backend": backend}
    assert "--gpu-memory-utilization 0.4" in " ".join(ipc.command)
    assert nccl.environment == {"VLLM_SERVER_DEV_MODE": "1"}
    assert ipc.environment == {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    with pytest.raises(UserError, match=r"--host is 0\.0\.0\.0"):
        ServerLaunch(**parts, transfer="ipc", host="0.0.0.0")
