"""A sampler in a process of its own: samples while the trainer trains.

Beside the trainer a sampler competes with it for one interpreter, one random state and one CUDA stream. In a process of
its own it shares nothing but the weights, which the trainer writes into memory that both map. Jobs are done one after
another in the order they were given, so a sync never meets a running generation. What is sampled is, bit for bit, what
the same sampler would sample in this process with as many threads.
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
from lambda_grpo_pl.sampling.factory import SamplerRecipe
from lambda_grpo_pl.sampling.process.shared_weights import map_slots, open_memory, plan_slots
from lambda_grpo_pl.sampling.protocol import OnGroup, SamplingSettings, SyncReport
from lambda_grpo_pl.sampling.vllm.compat import LAUNCH_VARIABLES
from lambda_grpo_pl.sampling.weights import policy_weights, weight_layout, weight_names

_FAREWELL_S = 5.0


class _Job(NamedTuple):
    """What was asked for and has not been answered."""

    future: Future[Any]
    on_group: OnGroup | None


class SamplerProcess:
    """A `Sampler` that lives elsewhere, and can be asked to `begin`.

    Example:
        >>> sampler = SamplerProcess(SamplerRecipe(name="vllm", config=model.config, …))
        >>> sampler.sync(model)
        >>> future = sampler.begin(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
        >>> …  # train
        >>> completions = future.result()
    """

    def __init__(self, recipe: SamplerRecipe, num_threads: int | None = None, device: int | None = None) -> None:
        """Start the process and build the sampler there.

        Args:
            recipe: What to build.
            num_threads: Its CPU threads; None: as many as this process has.
            device: Its GPU, counted among those that this process sees; None: the present one. Ignored without GPUs.

        Raises:
            ValueError: If the sampler cannot be built, as `SamplerRecipe.build`.
        """
        self.last_sync: SyncReport | None = None
        self._merge = recipe.merges
        self._memory = open_memory()
        self._weights: dict[str, Tensor] = {}
        self._source: nn.Module | None = None
        self._numbers = count()
        self._jobs: dict[int, _Job] = {}
        self._connection, theirs = Pipe()
        with theirs:
            handed = (theirs.fileno(), self._memory)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lambda_grpo_pl.sampling.process.worker", *map(str, handed)],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                env=worker_environment(num_threads or torch.get_num_threads(), device),
            )
        self._receiver = threading.Thread(target=self._receive, name="sampler-process", daemon=True)
        self._receiver.start()
        try:
            self._ask("build", recipe).result()
        except BaseException:  # an interrupt too: nobody could close it any more
            self.close()
            raise

    def sync(self, policy: nn.Module) -> SyncReport:
        """Write the weights, from a policy's second sync on only what changed, and have them read."""
        start = time.perf_counter()
        changed_only = policy is self._source
        if not changed_only:
            slots = plan_slots(weight_layout(policy, merge=self._merge))
            self._weights = map_slots(self._memory, slots)
            self._ask("map", slots).result()
        due = weight_names(policy, changed_only, self._merge) if changed_only else None
        sent = []
        for name, weight in policy_weights(policy, changed_only, self._merge):
            self._weights[name].copy_(weight)
            sent.append(name)
        report: SyncReport = self._ask("load", sent, due).result()
        self._source = policy
        self.last_sync = report._replace(seconds=time.perf_counter() - start)
        return self.last_sync

    def begin(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Future[Completions]:
        """Ask for completions, which will be on the CPU; arguments as in `Sampler.generate`.

        `on_group` is called from a thread. The future raises what `generate` would, and `RuntimeError` if the process
        ends.
        """
        told = Prompts(prompts.ids.cpu(), prompts.lengths.cpu(), tuple({} for _ in prompts.examples))
        return self._ask("generate", told, settings, seed, on_group is not None, on_group=on_group)

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes."""
        completions = self.begin(prompts, settings, seed, on_group).result()
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes."""
        scores: list[list[float]] = self._ask("probe", [list(sequence) for sequence in token_ids]).result()
        return scores

    def close(self) -> None:
        """End the process, at once if it is at work. The futures of its jobs raise."""
        if self._memory < 0:
            return
        os.close(self._memory)
        self._memory = -1
        if self._jobs:
            self._process.kill()
        else:
            self._ask("end")
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._receiver.join()
        self._connection.close()

    def _ask(self, verb: str, *arguments: Any, on_group: OnGroup | None = None) -> Future[Any]:
        number, job = next(self._numbers), _Job(Future(), on_group)
        self._jobs[number] = job
        try:
            self._connection.send_bytes(pickle.dumps((number, verb, arguments)))
        except OSError:  # it has ended: with what status, the thread below tells
            self._bury()
        return job.future

    def _receive(self) -> None:
        """Hand on what comes until the process ends."""
        try:
            while True:
                number, kind, value = pickle.loads(self._connection.recv_bytes())
                self._take(number, kind, value)
        except (EOFError, OSError):
            self._bury()

    def _take(self, number: int, kind: str, value: Any) -> None:
        job = self._jobs[number]
        if kind == "group":
            if job.future.done():  # whoever listens has raised already
                return
            try:
                assert job.on_group is not None
                job.on_group(*value)
            except Exception as error:  # the listener's own, for whoever waits for the job
                job.future.set_exception(error)
            return
        del self._jobs[number]
        if job.future.done():
            return
        if kind == "result":
            job.future.set_result(value)
        else:
            job.future.set_exception(value)

    def _bury(self) -> None:
        """Tell everybody who waits that the process has ended."""
        status = self._process.wait()
        for number in list(self._jobs):
            job = self._jobs.pop(number, None)
            if job is not None and not job.future.done():
                job.future.set_exception(RuntimeError(_obituary(status)))


def worker_environment(num_threads: int, device: int | None) -> dict[str, str]:
    """Return this process's environment for one that is nobody's rank: its threads, and the one GPU that it sees."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCH_VARIABLES}
    kept["OMP_NUM_THREADS"] = str(num_threads)
    if torch.cuda.is_available():
        index = torch.cuda.current_device() if device is None else device
        visible = [name for name in kept.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        kept["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return kept


def _obituary(status: int) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return (
        f"The sampler's process {how}; what it last said stands above. Signal 9 is mostly the system short of memory: "
        "lower rollout.engine.max_num_seqs, gpu_memory_utilization or kv_cache_gib."
    )
