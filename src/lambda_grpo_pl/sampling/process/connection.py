"""The trainer's end of a worker process: sends requests, receives results, and kills a process that hangs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import count
from multiprocessing import Pipe
from typing import Any, NamedTuple

import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.protocol import OnGroup
from lambda_grpo_pl.sampling.vllm.compat import LAUNCH_VARIABLES

_EXIT_TIMEOUT_S = 5.0
_NUM_LOOKS = 10
"""How often a process is looked at within `timeout_s`."""


class _Job(NamedTuple):
    """A request without a result so far."""

    future: Future[Any]
    on_group: OnGroup | None


class WorkerConnection:
    """A worker process and the requests that it has not answered.

    Attributes:
        pid: The process.
    """

    def __init__(self, memory: int, environment: Mapping[str, str], timeout_s: float | None) -> None:
        """Start a process that inherits the descriptor `memory`.

        A process with unanswered requests that sends nothing for `timeout_s` seconds is killed; None waits forever.
        The first request, which builds an engine, may take any time.
        """
        self._timeout_s, self._hangs, self._is_built = timeout_s, False, False
        self._last_message = time.monotonic()
        self._numbers = count()
        self._jobs: dict[int, _Job] = {}
        self._connection, worker_end = Pipe()
        with worker_end:
            descriptors = (worker_end.fileno(), memory)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lambda_grpo_pl.sampling.process.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.pid = self._process.pid
        self._receiver = threading.Thread(target=self._receive, name="sampler-process", daemon=True)
        self._receiver.start()

    def request(self, method: str, *arguments: Any, on_group: OnGroup | None = None) -> Future[Any]:
        """Have the worker run a method after those requested before; `on_group` is called from a thread.

        The future raises what the method raises, and `RuntimeError` if the process ends.
        """
        number, job = next(self._numbers), _Job(Future(), on_group)
        if not self._jobs:
            self._last_message = time.monotonic()
        self._jobs[number] = job
        try:
            self._connection.send_bytes(pickle.dumps((number, method, arguments)))
        except OSError:  # it has ended; its exit status is in the message
            self._fail_jobs()
        return job.future

    def end(self) -> None:
        """End the process, killing it if it is busy. The futures of its unfinished jobs raise."""
        if self._jobs:
            self._process.kill()
        else:
            self.request("end")
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._receiver.join()
        self._connection.close()

    def _receive(self) -> None:
        """Pass on what arrives until the process ends."""
        try:
            while True:
                self._await_message()
                number, kind, value = pickle.loads(self._connection.recv_bytes())
                self._last_message, self._is_built = time.monotonic(), True
                self._dispatch(number, kind, value)
        except (EOFError, OSError):
            self._fail_jobs()

    def _await_message(self) -> None:
        """Return when there is something to receive; kill a process that was busy and silent for too long."""
        if self._timeout_s is None:
            return
        while not self._connection.poll(self._timeout_s / _NUM_LOOKS):
            is_due = time.monotonic() - self._last_message > self._timeout_s
            if self._is_built and self._jobs and is_due:
                self._hangs = True
                self._process.kill()
                return

    def _dispatch(self, number: int, kind: str, value: Any) -> None:
        job = self._jobs[number]
        if kind == "group":
            if job.future.done():  # the listener has already raised
                return
            try:
                assert job.on_group is not None
                job.on_group(*value)
            except Exception as error:
                job.future.set_exception(error)
            return
        del self._jobs[number]
        if job.future.done():
            return
        if kind == "result":
            job.future.set_result(value)
        else:
            job.future.set_exception(value)

    def _fail_jobs(self) -> None:
        """Make all unfinished jobs raise that the process has ended."""
        status = self._process.wait()
        reason = _describe_hang(self._timeout_s) if self._hangs else _describe_exit(status)
        for number in list(self._jobs):
            job = self._jobs.pop(number, None)
            if job is not None and not job.future.done():
                job.future.set_exception(RuntimeError(reason))


def worker_environment(num_threads: int, device: int | None) -> dict[str, str]:
    """Return the environment of a process outside the ranks: its number of threads and the one GPU that it sees.

    Raises `UserError` if there is no such GPU.
    """
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCH_VARIABLES}
    kept["OMP_NUM_THREADS"] = str(num_threads)
    if torch.cuda.is_available():
        index = torch.cuda.current_device() if device is None else device + _local_rank()
        if index >= torch.cuda.device_count():
            raise UserError(
                f"one_step_off.device is {device}, so this rank's sampler would use GPU {index}, but "
                f"{torch.cuda.device_count()} are visible: set it to null or lower, or show more GPUs."
            )
        visible = [name for name in kept.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        kept["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return kept


def _local_rank() -> int:
    """Return this process's number among the ranks of its machine, whatever launched them."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def _describe_hang(timeout_s: float | None) -> str:
    return f"The sampler process sent nothing for {timeout_s:g} s (rollout.recovery.timeout_s) and was killed."


def _describe_exit(status: int) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return (
        f"The sampler process {how}; its last output is above. Signal 9 usually means the system ran out of memory: "
        "lower rollout.engine.max_num_seqs, rollout.engine.gpu_memory_utilization or rollout.engine.kv_cache_gib."
    )
