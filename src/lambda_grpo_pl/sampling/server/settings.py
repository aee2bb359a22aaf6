"""The `rollout.server` section: which servers sample, and how patient the trainer is with them."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from lambda_grpo_pl.errors import UserError

TransferName = Literal["folder", "nccl", "ipc"]


@dataclass(kw_only=True)
class ServerSettings:
    """vLLM servers that sample, for `rollout.sampler: server`. `lambda-grpo serve` starts one for a configuration."""

    urls: list[str] | None = None
    """Addresses such as http://127.0.0.1:8000. Each prompt's group is sampled whole by one of them."""
    transfer: TransferName = "folder"
    """How weights reach the servers: through files (`folder`), from GPU to other GPUs, also of other machines (`nccl`),
    or in the memory of a GPU that trainer and server share (`ipc`)."""
    weights_dir: str | None = None
    """For `transfer: folder`: where the trainer leaves new weights, under the same path on every server's machine."""
    trainer_address: str | None = None
    """For `transfer: nccl`: IPv4 address or name under which servers reach the trainer's machine. Null is the address
    from which this machine reaches the server."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the servers' API key; null if they have none."""
    concurrent_groups: int = 16
    """Groups that one server samples at a time; the next is sent when one has ended."""
    timeout_s: float = 600.0
    """Seconds after which a request counts as failed."""
    max_retries: int = 3
    """Times a failed request is repeated, after 1, 2, 4, … seconds, before its server is left out."""
    allow_public: bool = False
    """Accept addresses outside this machine and private networks. The endpoints that replace weights ignore the key."""

    def __post_init__(self) -> None:
        if self.concurrent_groups < 1:
            raise UserError(f"rollout.server.concurrent_groups is {self.concurrent_groups}: set it to 1 or more.")
        if self.timeout_s <= 0:
            raise UserError(f"rollout.server.timeout_s is {self.timeout_s}: set it to a positive number of seconds.")
        if self.max_retries < 0:
            raise UserError(f"rollout.server.max_retries is {self.max_retries}: set it to 0 or more.")
        for url in self.urls or ():
            self._check_url(url)
            if self.transfer == "ipc" and not is_loopback(str(urlsplit(url).hostname)):
                raise UserError(
                    f"rollout.server.transfer is ipc, but rollout.server.urls has {url}: CUDA IPC works within one "
                    "machine, and a server that takes it runs code that it is sent. Use a loopback address "
                    "(http://127.0.0.1:PORT), or set rollout.server.transfer to nccl or folder."
                )

    def require_urls(self) -> list[str]:
        """Return the addresses. Raises `UserError` if there are none."""
        if not self.urls:
            raise UserError(
                "rollout.sampler is server, but rollout.server.urls names no server: list their addresses, such as "
                "[http://127.0.0.1:8000]. `lambda-grpo serve` with the same configurations prints the command that "
                "starts one."
            )
        return self.urls

    def require_folder(self) -> str:
        """Return the folder for weights. Raises `UserError` if it is not set."""
        if self.weights_dir is None:
            raise UserError(
                "rollout.sampler is server, but rollout.server.weights_dir is not set: give a folder that this machine "
                "and the servers see under the same path, or set rollout.server.transfer to nccl or ipc."
            )
        return self.weights_dir

    @property
    def api_key(self) -> str | None:
        """The key, read from the environment when it is needed, so that no configuration holds it."""
        if self.api_key_env is None:
            return None
        if self.api_key_env not in os.environ:
            raise UserError(
                f"rollout.server.api_key_env is {self.api_key_env}, but that environment variable is not set."
            )
        return os.environ[self.api_key_env]

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"rollout.server.urls has {url!r}: write it as http://HOST:PORT.")
        if "@" in parts.netloc:  # the configuration of a run is saved and sent to trackers; the message, too, is kept
            raise UserError(
                f"rollout.server.urls names {parts.hostname} with a user or password: write it as http://HOST:PORT, "
                "and put a key into the environment variable that rollout.server.api_key_env names."
            )
        if not self.allow_public and not _is_private(parts.hostname):
            raise UserError(
                f"rollout.server.urls has {url}, which may be a public address. vLLM's endpoints that replace weights "
                "ignore the API key, so whoever reaches them controls the model: use an address of this machine or of "
                "a private network, or set rollout.server.allow_public to true behind a firewall."
            )


def is_loopback(host: str) -> bool:
    """Whether a host is certainly this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private(host: str) -> bool:
    """Whether a host is certainly not public: a private address, or a name without a public domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".cluster.local"))
