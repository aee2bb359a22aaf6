"""Where an engine starts: on the trainer's GPU, inside its process group, from a folder with the configuration."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from lambda_grpo_pl.sampling.weights import is_distributed


def executor_backend() -> Any:
    """Return vLLM's `distributed_executor_backend` for one engine per rank on the trainer's own device.

    vLLM takes the index of the GPU from `LOCAL_RANK` in a process group of several ranks, and otherwise always 0.
    `LOCAL_RANK` is not set under SLURM, and neither is right with `trainer.devices: [1]`; the trainer's current device
    is. Call it inside `process_unchanged`, which restores the environment.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else None
    if is_distributed():
        os.environ["RANK"] = str(torch.distributed.get_rank())
        os.environ["LOCAL_RANK"] = os.environ.get("LOCAL_RANK", "0") if device is None else str(device)
        return "external_launcher"
    return None if not device else _on_device(device)  # a group of one process may be left from an earlier engine


def _on_device(index: int) -> type:
    """Return vLLM's executor for one process, on GPU `index` instead of 0."""
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    class PinnedExecutor(UniProcExecutor):  # type: ignore[misc]
        """Runs on one given GPU."""

        def _distributed_args(self) -> tuple[str, int, int]:
            method, rank, _ = super()._distributed_args()
            return method, rank, index

    return PinnedExecutor


def configuration_folder(config: Any, architecture: str) -> Path:
    """Return a folder with `config` and no weights, the same one for the same configuration.

    A model that was built from a configuration names no architecture, and vLLM would take it for an encoder.

    vLLM's compile cache is keyed by the folder's path, so a random name would compile every time.
    """
    config = copy.deepcopy(config)
    config.architectures = config.architectures or [architecture]
    text = config.to_json_string()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "lambda-grpo" / "engines" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"draft-{os.getpid()}"
        config.save_pretrained(draft)
        for file in draft.iterdir():
            file.replace(folder / file.name)  # atomic: other ranks write the same content at the same time
        draft.rmdir()
    return folder
