"""The engine is built on the trainer's device, from a folder that keeps its name; nothing of the process changes."""

import copy
import os
from contextlib import nullcontext

import pytest
import torch
from transformers import PretrainedConfig

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import VllmSettings, runs_remote_code
from lambda_grpo_pl.sampling.process.connection import worker_environment
from lambda_grpo_pl.sampling.vllm import launch
from lambda_grpo_pl.sampling.vllm.compat import LAUNCH_VARIABLES, process_unchanged

from .parts import tiny_policy

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "node", "MASTER_PORT": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
LIGHTNING = {"LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine that seems to have eight GPUs; returns the current one, to be changed."""
    pytest.importorskip("vllm.v1.executor.uniproc_executor", reason="vLLM is an extra")  # before GPUs seem to exist
    current = [0]
    for name in (*LAUNCH_VARIABLES, "SLURM_PROCID", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: current.__setitem__(0, index))
    return current


def in_a_group(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM, LIGHTNING], ids=["torchrun", "slurm", "lightning"])
@pytest.mark.parametrize("device", [1, 6], ids=["devices 8", "devices 4,6"])
def test_a_rank_builds_its_engine_on_its_own_gpu(eight_gpus, monkeypatch, environment, device):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    in_a_group(monkeypatch, rank=5, size=8)
    eight_gpus[0] = device
    before = dict(os.environ)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    with process_unchanged():
        assert launch.executor_backend() == "external_launcher"
        assert os.environ["RANK"] == "5"
        assert os.environ["LOCAL_RANK"] == str(device)
        torch.cuda.set_device(0)
    assert dict(os.environ) == before
    assert eight_gpus[0] == device


@pytest.mark.parametrize("device", [1, 6])
def test_one_process_builds_its_engine_on_its_own_gpu(eight_gpus, device):
    """VLLM's executor for one process would take GPU 0."""
    eight_gpus[0] = device
    executor = object.__new__(launch.executor_backend())
    executor.vllm_config = type("Config", (), {"device_config": type("Device", (), {"device": "cuda"})})
    assert executor._distributed_args()[1:] == (0, device)


def test_the_first_gpu_and_a_cpu_need_no_executor_of_ours(eight_gpus, monkeypatch):
    assert launch.executor_backend() is None
    in_a_group(monkeypatch, rank=0, size=1)
    assert launch.executor_backend() is None


def test_ranks_on_cpus_keep_their_local_rank(monkeypatch):
    in_a_group(monkeypatch, rank=3, size=4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with process_unchanged():
        launch.executor_backend()
        assert os.environ["LOCAL_RANK"] == "1"
        del os.environ["LOCAL_RANK"]
        launch.executor_backend()
        assert os.environ["LOCAL_RANK"] == "0"


@pytest.mark.parametrize("environment", [{"LOCAL_RANK": "2"}, {"SLURM_LOCALID": "2"}], ids=["launcher", "slurm"])
def test_one_step_off_gives_each_rank_its_own_gpu(eight_gpus, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert worker_environment(1, device=4)["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(UserError, match=r"one_step_off\.device is 6, so .* GPU 8, but 8 are visible"):
        worker_environment(1, device=6)


def test_types_and_graphs_follow_the_machine(monkeypatch):
    for gpu, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        settings = VllmSettings()
        assert settings.torch_dtype == dtype
        assert settings.eager == (not gpu)
        assert settings.kv_cache_bytes == (None if gpu else 2**30)
        assert VllmSettings(dtype="float16", enforce_eager=gpu, kv_cache_gib=2).torch_dtype == torch.float16
        assert VllmSettings(enforce_eager=gpu).eager == gpu
        assert VllmSettings(kv_cache_gib=2).kv_cache_bytes == 2**31


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "half"), ("gpu_memory_utilization", 1.0), ("max_model_len", 1), ("max_num_seqs", 0)],
)
def test_settings_that_no_engine_has_are_refused_by_their_full_key(field, value):
    with pytest.raises(UserError, match=rf"rollout\.engine\.{field} is {value!r}: "):
        VllmSettings(**{field: value})


def test_the_configurations_folder_keeps_its_name(monkeypatch, tmp_path):
    """VLLM's compile cache is keyed by it. A second configuration gets another one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny_policy(tied=True).config
    folder = launch.configuration_folder(config, "Qwen2ForCausalLM")
    assert folder.is_relative_to(tmp_path)
    assert launch.configuration_folder(copy.deepcopy(config), "Qwen2ForCausalLM") == folder
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert PretrainedConfig.from_pretrained(folder).architectures == ["Qwen2ForCausalLM"]
    config.vocab_size += 1
    assert launch.configuration_folder(config, "Qwen2ForCausalLM") != folder


def test_remote_code_is_trusted_where_the_policy_runs_it():
    remote = type("Remote", (torch.nn.Module,), {"__module__": "transformers_modules.org.model.modeling"})
    assert runs_remote_code(remote())
    assert not runs_remote_code(tiny_policy(tied=True))
