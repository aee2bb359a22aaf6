"""The trainer's side of vLLM's weight transfer. Imports vLLM, so import it only where weights are sent this way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import (
    HTTPVLLMWeightSyncClient,
    ParamMeta,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.server.addresses import free_port, local_address
from lambda_grpo_pl.sampling.server.client import Server, ServerError
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.server.stream import WeightStream
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat

BUFFER_BYTES = 256 * 2**20
"""Size of the pieces in which weights travel; a larger tensor is a piece of its own."""

warnings.filterwarnings("ignore", message=r"Tensor '.*' has size .* exceeds buffer_size_bytes")  # only a larger piece


class PolicySource(WeightSource):  # type: ignore[misc]
    """A stream as vLLM reads it: the checkpoint's names, on the trainer's GPU, in the type that the engine computes in.

    Attributes:
        stream: What is read; set before each sync.
    """

    stream: WeightStream

    def __init__(self, checkpoint: CheckpointFormat, device: torch.device, engine_dtype: torch.dtype | None) -> None:
        """Convert with `checkpoint`; `engine_dtype` None sends the policy's own types."""
        self._format, self._device, self._dtype = checkpoint, device, engine_dtype

    def metadata(self) -> list[ParamMeta]:
        """Return name, type and shape of each tensor that an iteration yields, without gathering one."""
        blanks = ((name, torch.empty(shape, dtype=dtype, device="meta")) for name, shape, dtype in self.stream.layout)
        return [
            ParamMeta(name, _wire_dtype(blank.dtype, self._dtype), tuple(blank.shape))
            for name, blank in self._format.convert(blanks)
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        if self._device.type == "cuda":  # vLLM reads on a stream of its own, which does not wait for the optimizer's
            torch.cuda.synchronize(self._device)
        for name, weight in self._format.convert(self.stream):
            yield name, weight.to(self._device, _wire_dtype(weight.dtype, self._dtype))

    def sizes(self) -> list[int]:
        """Return the bytes of each tensor."""
        return [meta.dtype.itemsize * int(torch.Size(meta.shape).numel()) for meta in self.metadata()]


class SyncClient(HTTPVLLMWeightSyncClient):  # type: ignore[misc]
    """vLLM's requests to a server, over our connection: without retries, and with our errors.

    Attributes:
        error: What failed, if errors are kept for `raise_error`. Nothing is requested after it.
        abort: Called when a request fails, so that the trainer does not wait for a server that is gone.
    """

    def __init__(self, server: Server, keeps_errors: bool) -> None:
        """Send to `server`; `keeps_errors` where several ranks send together, so that none leaves the others alone."""
        super().__init__(server.url)
        self.error: ServerError | UserError | None = None
        self.abort: Callable[[], None] = lambda: None
        self._server, self._keeps_errors = server, keeps_errors

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        if self.error is not None:
            return
        try:
            self._request(path, json)
        except (ServerError, UserError) as error:
            self.abort()
            if not self._keeps_errors:
                raise
            self.error = error

    def _request(self, path: str, json: dict[str, Any] | None) -> None:
        try:
            self._server.request("POST", f"/{path}", json, max_retries=0)
        except ServerError:
            if path != "start_weight_update":
                raise
            # A trainer that was killed may have left an update open: end it, and start again.
            self._server.request("POST", "/finish_weight_update", max_retries=0)
            self._server.request("POST", f"/{path}", json, max_retries=0)

    def raise_error(self) -> None:
        """Raise the error that was kept, if there is one."""
        error, self.error = self.error, None
        if error is not None:
            raise error


class Backend(Protocol):
    """One of vLLM's ways to transfer weights, as the trainer opens it."""

    def open(self, server: Server, source: PolicySource) -> tuple[Any, SyncClient]:
        """On rank 0: connect a server; return vLLM's `TrainerWeightTransferEngine` and its client."""
        ...

    def follower(self, source: PolicySource) -> Callable[[], object] | None:
        """On the other ranks: return what makes rank 0's passes with it; None if they need only gather."""
        ...


class Nccl:
    """A group of rank 0 and one server's workers, in which weights are broadcast."""

    def __init__(self, settings: ServerSettings) -> None:
        """Servers reach this machine under `settings.trainer_address`."""
        self._address = settings.trainer_address

    def open(self, server: Server, source: PolicySource) -> tuple[Any, SyncClient]:
        """Form the group."""
        address = self._address or local_address(server.url)
        info = NCCLTrainerInitInfo(
            rank=0,
            master_address=address,
            master_port=free_port(address),
            world_size=1 + int(server.request("GET", "/get_world_size")["world_size"]),
            packed=True,
            packed_buffer_size_bytes=BUFFER_BYTES,
        )
        client = SyncClient(server, keeps_errors=False)
        engine = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
        client.abort = lambda: destroy(engine)
        return engine, client

    def follower(self, source: PolicySource) -> None:
        """Only rank 0 is in the group."""


class Ipc:
    """Pieces of weights in GPU memory that trainer and server both map: on every rank, one for the server's worker."""

    def __init__(self, settings: ServerSettings) -> None:
        """Nothing to set."""

    def open(self, server: Server, source: PolicySource) -> tuple[Any, SyncClient]:
        """Tell the server what comes."""
        client = SyncClient(server, keeps_errors=True)
        engine = WeightTransferTrainerFactory.trainer_init(self._info(0, source), client=client, source=source)
        client.raise_error()
        return engine, client

    def follower(self, source: PolicySource) -> Callable[[], object]:
        """Return vLLM's `send_weights` of a rank that does not talk to servers."""
        info = self._info(torch.distributed.get_rank(), source)
        engine = WeightTransferTrainerFactory.trainer_init(info, client=None, source=source)
        send: Callable[[], object] = engine.send_weights
        return send

    def _info(self, rank: int, source: PolicySource) -> IPCTrainerInitInfo:
        size = max(BUFFER_BYTES, *source.sizes())  # every tensor must fit
        return IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=size)


BACKENDS: dict[str, Callable[[ServerSettings], Backend]] = {"nccl": Nccl, "ipc": Ipc}
"""By `rollout.server.transfer`, which is also vLLM's name of it."""


def destroy(engine: Any) -> None:
    """End the engine's communicator, even one that waits for a server; vLLM 0.28's `shutdown` only forgets it."""
    group = getattr(engine, "model_update_group", None)
    if group is not None:
        group.destroy()
    engine.shutdown()


def _wire_dtype(dtype: torch.dtype, engine: torch.dtype | None) -> torch.dtype:
    """Return the type in which a tensor of `dtype` is sent to an engine that computes in `engine`."""
    return dtype if engine is None or not dtype.is_floating_point else engine
