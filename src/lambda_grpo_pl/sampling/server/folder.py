"""Weights for servers, as safetensors in a folder that they see: the transfer that works between any machines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.server.channel import Delivery, attempt
from lambda_grpo_pl.sampling.server.client import Server
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.server.stream import WeightStream
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat

SHARD_BYTES = 2 * 2**30
"""Size at which a file is closed and the next begun: what a write holds in memory at most, besides one tensor."""


class WrittenWeights(NamedTuple):
    """A folder of weights."""

    folder: Path
    num_bytes: int


class FolderChannel:
    """Writes the weights once; all servers read them at the same time."""

    def __init__(self, settings: ServerSettings, checkpoint: CheckpointFormat) -> None:
        """Create the folder. Raises `UserError` if it is not set or that fails."""
        self._folder, self._format = WeightsFolder(settings.require_folder()), checkpoint

    def send(self, stream: WeightStream, servers: Sequence[Server], name: str) -> Delivery:
        """Write all weights and have every server that answers load them."""
        with stream.one_pass():
            written = self._folder.write(self._format.convert(stream))
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(written.folder)}}

        def load(server: Server) -> None:
            server.request("POST", "/collective_rpc", body)

        with ThreadPoolExecutor(len(servers)) as pool:
            failures = list(pool.map(lambda server: attempt(server, load, name), servers))
        self._folder.keep_only(written.folder)
        return Delivery(written.num_bytes, failures)

    def follow(self, stream: WeightStream) -> Any:
        """Take part in gathering."""
        return stream.follow()

    def close(self) -> None:
        """Delete the weights."""
        self._folder.clear()


class WeightsFolder:
    """Folders of weights below one folder; `keep_only` deletes what is older."""

    def __init__(self, root: str) -> None:
        """Create the folder. Raises `UserError` if that fails."""
        self._root, self._written = Path(root).expanduser().absolute(), list[Path]()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"rollout.server.weights_dir is {root}, which cannot be created: {error}.") from error

    def write(self, weights: Iterable[tuple[str, Tensor]]) -> WrittenWeights:
        """Write all weights; the folder gets its name when it is complete. Raises `UserError` if the disk is full."""
        draft = Path(tempfile.mkdtemp(prefix="weights-", suffix=".partial", dir=self._root))
        draft.chmod(0o755)  # the servers may run as another user
        folder = draft.with_suffix("")
        num_bytes = 0
        try:
            for number, shard in enumerate(_shards(weights)):
                save_file(shard, draft / f"model-{number:05d}.safetensors")
                num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
            draft.rename(folder)
            self._written.append(folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise UserError(
                f"Weights could not be written to rollout.server.weights_dir {self._root}: {error}. Free space there, "
                "or choose another folder."
            ) from error
        return WrittenWeights(folder, num_bytes)

    def keep_only(self, folder: Path) -> None:
        """Delete the other folders."""
        for other in self._written:
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        self._written = [folder]

    def clear(self) -> None:
        """Delete all folders."""
        for folder in self._written:
            shutil.rmtree(folder, ignore_errors=True)
        self._written = []


def _shards(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Group tensors, each in memory of its own on the CPU: safetensors refuses tensors that share memory."""
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, weight in weights:
        shard[name] = weight.detach().to("cpu", copy=True).contiguous()
        num_bytes += weight.numel() * weight.element_size()
        if num_bytes >= SHARD_BYTES:
            yield shard
            shard, num_bytes = {}, 0
    if shard:
        yield shard
