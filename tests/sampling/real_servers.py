"""Real vLLM servers of the tiny policy as processes: how tests start them, wait for them and kill them."""

import os
import subprocess
import time
from pathlib import Path

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.sampling import ServerSampler, VllmSettings
from lambda_grpo_pl.sampling.server.launch import ServerLaunch
from lambda_grpo_pl.sampling.server.settings import TransferName

from .parts import tiny_policy

START_TIMEOUT_S = 600


def save_other_policy(folder: Path) -> Path:
    """The tiny policy with other weights than those that are sent, and a tokenizer, which a server requires."""
    tiny_policy(tied=True, seed=1).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def start(
    folder: Path,
    port: int,
    engine: VllmSettings,
    transfer: TransferName = "folder",
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server, the first of a process group of its own."""
    launch = ServerLaunch(model=str(folder), context_length=64, engine=engine, port=port, transfer=transfer)
    variables = os.environ | launch.environment | (environment or {})
    return subprocess.Popen(launch.command, env=variables, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with the processes that it has started."""
    os.killpg(process.pid, 9)
    process.wait()


def wait_for(sampler: ServerSampler) -> None:
    """Wait until all of a sampler's servers answer."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(server.is_healthy() for server in sampler.servers):
        assert time.monotonic() < deadline, "a server did not start"
        time.sleep(1)
