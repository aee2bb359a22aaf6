"""Weights from GPU to GPU by vLLM's weight transfer (NCCL or CUDA IPC), without a file, for vLLM 0.28 and later.

Servers are served one after another, and each gets a pass over the weights of its own: a tensor at a time is gathered,
converted and sent in pieces, so that neither side ever holds a second copy of the model. A server's connection lasts
until it fails or restarts: it is connected again then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from packaging.version import Version

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.server.channel import Delivery, attempt
from lambda_grpo_pl.sampling.server.client import Server, ServerError
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.server.stream import WeightStream
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm

if TYPE_CHECKING:
    from lambda_grpo_pl.sampling.server.vllm_transfer import Backend, PolicySource, SyncClient

OLDEST_VLLM = Version("0.28")
"""First version whose weight transfer has this interface, which 0.32 still has."""
REMEDY = "set rollout.server.transfer to folder, and rollout.server.weights_dir to a folder that the servers see"


class Link(NamedTuple):
    """A connected server."""

    engine: Any
    """vLLM's `TrainerWeightTransferEngine`."""
    client: SyncClient


class TransferChannel:
    """A `WeightChannel` over one of vLLM's backends."""

    def __init__(
        self, settings: ServerSettings, checkpoint: CheckpointFormat, engine_dtype: torch.dtype | None
    ) -> None:
        """Connect nothing yet. Raises `UserError` without a GPU, or with a vLLM that is absent or too old."""
        self._name = settings.transfer
        device = trainer_device(self._name)
        require_transfer("this machine", installed_vllm(), self._name)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from lambda_grpo_pl.sampling.server.vllm_transfer import BACKENDS, PolicySource

        self._source: PolicySource = PolicySource(checkpoint, device, engine_dtype)
        self._backend: Backend = BACKENDS[self._name](settings)
        self._links: dict[str, Link] = {}

    def send(self, stream: WeightStream, servers: Sequence[Server], name: str) -> Delivery:
        """Send all weights to one server after another."""
        self._source.stream = stream
        failures = [attempt(server, self._send, name) for server in servers]
        return Delivery(sum(self._source.sizes()), failures)

    def follow(self, stream: WeightStream) -> Any:
        """Take part in gathering, and in sending where every rank does."""
        self._source.stream = stream
        return stream.follow(self._backend.follower(self._source))

    def close(self) -> None:
        """End all connections."""
        for url in list(self._links):
            self._disconnect(url)

    def _send(self, server: Server) -> None:
        """Send to one server. Raises `ServerError` for what is wrong with it; it is then connected again next time."""
        stream = self._source.stream
        try:
            link = self._connected(server)
            with stream.one_pass():
                link.engine.send_weights()
            link.client.raise_error()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # NCCL, the rendezvous, or the server
            self._disconnect(server.url)
            if stream.error is not None:
                raise
            raise ServerError(f"{server.url} did not take the weights ({error}); see its log.") from error

    def _connected(self, server: Server) -> Link:
        """Return the server's connection, a new one if it has none or has restarted."""
        link = self._links.get(server.url)
        if link is not None and not server.has_restarted():
            return link
        self._disconnect(server.url)
        require_ready(server, self._name)
        link = Link(*self._backend.open(server, self._source))
        self._links[server.url] = link
        return link

    def _disconnect(self, url: str) -> None:
        from lambda_grpo_pl.sampling.server.vllm_transfer import destroy

        link = self._links.pop(url, None)
        if link is not None:
            destroy(link.engine)


def trainer_device(transfer: str) -> torch.device:
    """Return this process's GPU, from which weights are sent. Raises `UserError` if there is none."""
    if not torch.cuda.is_available():
        raise UserError(
            f"rollout.server.transfer is {transfer}, which sends weights from a CUDA GPU, and the trainer has none: "
            f"{REMEDY}."
        )
    return torch.device("cuda", torch.cuda.current_device())


def require_transfer(place: str, version: str | None, transfer: str) -> None:
    """Raise a `UserError` unless `version` of vLLM, at `place`, has the weight transfer."""
    if version is None or Version(version) < OLDEST_VLLM:
        found = "has no vLLM" if version is None else f"has vLLM {version}"
        raise UserError(
            f"rollout.server.transfer is {transfer}, which needs vLLM {OLDEST_VLLM} or later on the trainer and on the "
            f"servers, but {place} {found}: install a newer one there, or {REMEDY}."
        )


def require_ready(server: Server, transfer: str) -> None:
    """Check that a server takes weights this way, and free what an earlier trainer left connected.

    Raises `UserError` if it must be started differently. Otherwise connecting would wait minutes for it.
    """
    require_transfer(server.url, str(server.request("GET", "/version")["version"]), transfer)
    info = server.request("GET", "/server_info?config_format=json")
    configured = (info["vllm_config"].get("weight_transfer_config") or {}).get("backend")
    unsafe = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    if configured != transfer or (transfer == "ipc" and not info["vllm_env"].get(unsafe)):
        raise UserError(
            f"{server.url} was not started for rollout.server.transfer: {transfer}. Start it as `lambda-grpo serve` "
            f'with this configuration says: with --weight-transfer-config \'{{"backend": "{transfer}"}}\''
            + (f" and {unsafe}=1." if transfer == "ipc" else ".")
        )
    with suppress(ServerError, UserError):  # older than 0.32, or in the middle of an update, which the next one ends
        server.request("POST", "/shutdown_weight_transfer_engine", max_retries=0)
