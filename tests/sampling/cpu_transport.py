"""vLLM's own weight transfer on CPUs: both of its ends are real, what carries the bytes is not.

NCCL's communicator is replaced by one that sends through the TCP store of vLLM's rendezvous, CUDA IPC's memory by
memory of this process, and what vLLM asks of CUDA by answers that a CPU can give. Metadata, packing, piece boundaries,
loading and the order of requests are vLLM's code on either side.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

PATIENCE_S = 60.0
"""How long a broadcast waits for the other side: longer than any test."""
ROOT = Path(__file__).parents[2]
MODULES = ("base", "nccl_common", "nccl_engine", "ipc_engine", "packed_tensor")
SHARED: dict[int, torch.Tensor] = {}
"""Stands for GPU memory that two processes map."""
_handles = itertools.count()


class StoreCommunicator:
    """`PyNcclCommunicator` as far as weight transfer uses it; as with NCCL, a broadcast waits for the receiver."""

    pieces: ClassVar[list[int]] = []
    """Bytes of each piece that this process has sent."""

    def __init__(self, group: Any, device: Any) -> None:
        self.rank, self.store = group.rank, group.store
        self.disabled, self._count = False, 0
        group.barrier()

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if self.disabled:
            return
        data, taken, self._count = f"data/{self._count}", f"taken/{self._count}", self._count + 1
        if src == self.rank:
            self.pieces.append(tensor.numel())
            self.store.set(data, tensor.numpy().tobytes())
            self._wait_for(taken)
        elif self._wait_for(data):
            tensor.copy_(torch.frombuffer(bytearray(self.store.get(data)), dtype=tensor.dtype))
            self.store.set(taken, b"")

    def destroy(self) -> None:
        self.disabled = True

    def _wait_for(self, key: str) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while not self.disabled:
            if self.store.check([key]):
                return True
            assert time.monotonic() < deadline, f"nobody set {key}"
            Event().wait(0.001)  # tests replace time.sleep
        return False


class CpuTorch:
    """Torch, with a GPU that is not there."""

    def __init__(self, gpu: str) -> None:
        stream = SimpleNamespace(synchronize=lambda: None)
        self.accelerator = SimpleNamespace(current_device_index=lambda: 0, synchronize=lambda: None)
        self.cuda = SimpleNamespace(
            Stream=lambda device: stream,
            stream=lambda _: nullcontext(),
            current_stream=lambda: stream,
            get_device_properties=lambda index: SimpleNamespace(uuid=gpu),
            is_available=lambda: False,
            synchronize=lambda: None,
            ipc_collect=lambda: None,
        )

    def empty(self, *size: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return torch.empty(*size, device="cpu", **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def share(tensor: torch.Tensor) -> tuple[None, tuple[Any, ...]]:
    """`reduce_tensor`: a handle whose seventh part is the device, as in CUDA's."""
    handle = next(_handles)
    SHARED[handle] = tensor
    return None, (handle, "memory of a GPU", *[None] * 4, 0)


def install(replace: Callable[[Any, str, Any], None] = setattr, gpu: str = "GPU-0") -> None:
    """Replace what needs CUDA in this process; `replace` may be a monkeypatch's `setattr`."""
    from vllm.distributed.device_communicators import pynccl

    package = "vllm.distributed.weight_transfer"
    cpu = CpuTorch(gpu)
    for name in MODULES:
        replace(importlib.import_module(f"{package}.{name}"), "torch", cpu)
    replace(pynccl, "PyNcclCommunicator", StoreCommunicator)
    packed = importlib.import_module(f"{package}.packed_tensor")
    replace(packed, "_get_streams", packed._get_streams.__wrapped__)  # real streams stay out of the cache, and ours too
    replace(packed, "reduce_tensor", share)
    replace(packed.PackedBufferImporter, "rebuild", lambda self, handle: SHARED[handle[0]])


def plugin_path(folder: Path) -> str:
    """Return a PYTHONPATH with which vLLM, in all of its processes, calls `install`: a plugin without installation."""
    info = folder / "cpu_transport-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cpu-transport\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\ncpu_transport = {__name__}:install\n")
    return f"{folder}:{ROOT}"
