"""A stand-in for a vLLM server that takes weights from GPUs: vLLM's own worker ends, on `cpu_transport`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory

from .fake_server import FakeServer


class FakeTransferServer(FakeServer):
    """Serves the endpoints of weight transfer as vLLM 0.32 does, its worker's checks of their order included.

    Attributes:
        requests: Paths of the requests about weights, in their order.
        received: (name, tensor) pairs of the last update, in the order in which they came.
    """

    def __init__(self, config: Any, eos: int, pad: int, backend: str = "nccl", gpu: str = "GPU-0") -> None:
        self.backend, self.vllm, self.gpu = backend, "0.32.0", gpu
        self.environment: dict[str, Any] = {"VLLM_ALLOW_INSECURE_SERIALIZATION": True}
        self.requests: list[str] = []
        self.received: list[tuple[str, Tensor]] = []
        self.fails_in = ""
        self.start_worker()
        super().__init__(config, eos, pad)

    def start_worker(self) -> None:
        """Start the worker, or replace it by a new one, as a restart of the server does."""
        parallel = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        model = SimpleNamespace(load_weights=self.load)
        config = SimpleNamespace(parallel_config=parallel, model_config=None)
        self.worker = WeightTransferEngineFactory.create_engine(
            SimpleNamespace(backend=self.backend), config, torch.device("cpu", 0), model
        )
        self.is_updating, self.version = False, "default"

    def load(self, weights: list[tuple[str, Tensor]]) -> None:
        self.received += [(name, weight.clone()) for name, weight in weights]

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        name = path.strip("/").partition("?")[0]
        handler = getattr(self, f"do_{name}", None)
        if handler is None:
            return super().answer(path, body)
        if name not in ("version", "server_info", "get_world_size"):
            self.requests.append(name)
        if self.fails_in == name:
            raise RuntimeError("as the test wants it")
        return handler(**body)

    def do_version(self) -> Any:
        return {"version": self.vllm}

    def do_server_info(self) -> Any:
        backend = {"backend": self.backend} if self.backend else None
        return {"vllm_config": {"weight_transfer_config": backend}, "vllm_env": self.environment}

    def do_get_world_size(self) -> Any:
        return {"world_size": 1}

    def do_weight_info(self) -> Any:
        return {"weight_version": self.version}

    def do_shutdown_weight_transfer_engine(self) -> None:
        self.worker.shutdown()

    def do_init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.worker.init_transfer_engine(self.worker.parse_init_info(init_info))

    def do_start_weight_update(self) -> None:
        if self.is_updating:
            raise RuntimeError("start_weight_update called while a weight update is already active.")
        self.is_updating, self.received = True, []

    def do_update_weights(self, update_info: dict[str, Any]) -> None:
        if not self.is_updating:
            raise RuntimeError("start_weight_update must be called before update_weights.")
        try:
            self.worker.update_weights(update_info)
        except BaseException:
            self.is_updating = False
            raise

    def do_finish_weight_update(self) -> None:
        if not self.is_updating:
            raise RuntimeError("finish_weight_update called without a matching start_weight_update.")
        self.is_updating = False
        if self.fault != "stale":
            self.sampler.receive(self.received)

    def do_update_weight_version(self, new_version: str) -> None:
        self.version = new_version
