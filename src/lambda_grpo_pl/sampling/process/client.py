"""A sampler in a separate process: samples while the trainer trains.

In the trainer's process a sampler competes for one interpreter, one random state and one CUDA stream. In a separate
process it shares only the weights, which the trainer writes into memory that both map. Jobs run one after another, in
the order they were requested, so a sync never overlaps a generation. The samples are, bit for bit, those of the same
sampler in this process with the same number of threads.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from multiprocessing import Pipe
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.factory import SamplerBuilder, uses_vllm
from lambda_grpo_pl.sampling.process.shared_weights import map_slots, open_memory, plan_slots
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.vllm.compat import LAUNCH_VARIABLES
from lambda_grpo_pl.sampling.weights import policy_weights, weight_layout, weight_names
from lambda_grpo_pl.sampling_settings import SamplingSettings

_EXIT_TIMEOUT_S = 5.0


class _Job(NamedTuple):
    """A request without a result so far."""

    future: Future[Any]
    on_group: OnGroup | None


class SamplerProcess:
    """A `Sampler` in a separate process, which can also `begin` to sample in the background.

    Example:
        >>> sampler = SamplerProcess(SamplerBuilder(name="vllm", config=model.config, …))
        >>> sampler.sync(model)
        >>> future = sampler.begin(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
        >>> …  # train
        >>> completions = future.result()
    """

    def __init__(self, builder: SamplerBuilder, num_threads: int | None = None, device: int | None = None) -> None:
        """Start the process and build the sampler there.

        Args:
            builder: What to build.
            num_threads: CPU threads of the process; None: as many as this process has.
            device: GPU of the first local rank's sampler, counted among those that this process sees; later ranks
                take the following ones. None: the current one. Ignored without GPUs.

        Raises:
            UserError: If the sampler cannot be built (`SamplerBuilder.build`), or there is no such GPU.
        """
        self.last_sync: SyncReport | None = None
        self._merge = builder.merges_adapters
        self._dtype = builder.engine.torch_dtype if uses_vllm(builder.name) else None
        self._memory = open_memory()
        self._weights: dict[str, Tensor] = {}
        self._source: nn.Module | None = None
        self._numbers = count()
        self._jobs: dict[int, _Job] = {}
        self._connection, worker_end = Pipe()
        with worker_end:
            descriptors = (worker_end.fileno(), self._memory)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lambda_grpo_pl.sampling.process.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=worker_environment(num_threads or torch.get_num_threads(), device),
            )
        self._receiver = threading.Thread(target=self._receive, name="sampler-process", daemon=True)
        self._receiver.start()
        try:
            self._request("build", builder).result()
        except BaseException:  # including an interrupt: the caller has no object to close
            self.close()
            raise

    def sync(self, policy: nn.Module) -> SyncReport:
        """Write the weights and have them read; from a policy's second sync on, only what changed."""
        start = time.perf_counter()
        changed_only = policy is self._source
        if not changed_only:
            slots = plan_slots(weight_layout(policy, merge=self._merge), self._dtype)
            self._weights = map_slots(self._memory, slots)
            self._request("map", slots).result()
        expected = weight_names(policy, changed_only, self._merge) if changed_only else None
        sent = []
        for name, weight in policy_weights(policy, changed_only, self._merge):
            self._weights[name].copy_(weight)
            sent.append(name)
        report: SyncReport = self._request("load", sent, expected).result()
        self._source = policy
        self.last_sync = report._replace(seconds=time.perf_counter() - start)
        return self.last_sync

    def begin(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Future[Completions]:
        """Start sampling; the completions will be on the CPU. Arguments as in `Sampler.generate`.

        `on_group` is called from a thread. The future raises what `generate` would, and `RuntimeError` if the process
        ends.
        """
        request = Prompts(prompts.ids.cpu(), prompts.lengths.cpu(), tuple({} for _ in prompts.examples))
        return self._request("generate", request, settings, seed, on_group is not None, on_group=on_group)

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes."""
        completions = self.begin(prompts, settings, seed, on_group).result()
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes."""
        scores: list[list[float]] = self._request("probe", [list(sequence) for sequence in token_ids]).result()
        return scores

    def sleep(self) -> None:
        """Nothing to free: the process samples while the policy trains."""

    def close(self) -> None:
        """End the process, killing it if it is busy. The futures of its unfinished jobs raise."""
        if self._memory < 0:
            return
        os.close(self._memory)
        self._memory = -1
        if self._jobs:
            self._process.kill()
        else:
            self._request("end")
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._receiver.join()
        self._connection.close()

    def _request(self, method: str, *arguments: Any, on_group: OnGroup | None = None) -> Future[Any]:
        number, job = next(self._numbers), _Job(Future(), on_group)
        self._jobs[number] = job
        try:
            self._connection.send_bytes(pickle.dumps((number, method, arguments)))
        except OSError:  # it has ended; its exit status is in the message
            self._fail_jobs()
        return job.future

    def _receive(self) -> None:
        """Pass on what arrives until the process ends."""
        try:
            while True:
                number, kind, value = pickle.loads(self._connection.recv_bytes())
                self._dispatch(number, kind, value)
        except (EOFError, OSError):
            self._fail_jobs()

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
        for number in list(self._jobs):
            job = self._jobs.pop(number, None)
            if job is not None and not job.future.done():
                job.future.set_exception(RuntimeError(_exit_message(status)))


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


def _exit_message(status: int) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return (
        f"The sampler process {how}; its last output is above. Signal 9 usually means the system ran out of memory: "
        "lower rollout.engine.max_num_seqs, rollout.engine.gpu_memory_utilization or rollout.engine.kv_cache_gib."
    )
