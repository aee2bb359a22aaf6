"""A sampler in a separate process: samples while the trainer trains.

In the trainer's process a sampler competes for one interpreter, one random state and one CUDA stream. In a separate
process it shares only the weights, which the trainer writes into memory that both map. Jobs run one after another, in
the order they were requested, so a sync never overlaps a generation. The samples are, bit for bit, those of the same
sampler in this process with the same number of threads. The weights outlive the process: a new
one, after a failure, reads them from the same memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling.factory import SamplerBuilder, uses_vllm
from lambda_grpo_pl.sampling.process.connection import WorkerConnection, worker_environment
from lambda_grpo_pl.sampling.process.shared_weights import Slot, map_slots, open_memory, plan_slots
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.weights import policy_weights, weight_layout, weight_names
from lambda_grpo_pl.sampling_settings import SamplingSettings


class SamplerProcess:
    """A `Sampler` in a separate process, which can also `begin` to sample in the background.

    Example:
        >>> sampler = SamplerProcess(SamplerBuilder(name="vllm", config=model.config, …))
        >>> sampler.sync(model)
        >>> future = sampler.begin(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
        >>> …  # train
        >>> completions = future.result()
    """

    def __init__(
        self,
        builder: SamplerBuilder,
        num_threads: int | None = None,
        device: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Start the process and build the sampler there.

        Args:
            builder: What to build.
            num_threads: CPU threads of the process; None: as many as this process has.
            device: GPU of the first local rank's sampler, counted among those that this process sees; later ranks
                take the following ones. None: the current one. Ignored without GPUs.
            timeout_s: Seconds without a group or a result after which the process is killed; None waits forever.

        Raises:
            UserError: If the sampler cannot be built (`SamplerBuilder.build`) or not here, or there is no such GPU.
        """
        builder.check_process()
        self.last_sync: SyncReport | None = None
        self._builder, self._timeout_s = builder, timeout_s
        self._environment = worker_environment(num_threads or torch.get_num_threads(), device)
        self._merge = builder.merges_adapters
        self._dtype = builder.engine.torch_dtype if uses_vllm(builder.name) else None
        self._memory = open_memory()
        self._slots: list[Slot] = []
        self._weights: dict[str, Tensor] = {}
        self._source: nn.Module | None = None
        self._worker: WorkerConnection | None = None
        self._launching = threading.Lock()
        try:
            self._launch()
        except BaseException:  # including an interrupt: the caller has no object to close
            self.close()
            raise

    def sync(self, policy: nn.Module) -> SyncReport:
        """Write the weights and have them read; from a policy's second sync on, only what changed."""
        start = time.perf_counter()
        changed_only = policy is self._source
        if not changed_only:
            self._slots = plan_slots(weight_layout(policy, merge=self._merge), self._dtype)
            self._weights = map_slots(self._memory, self._slots)
        expected = weight_names(policy, changed_only, self._merge) if changed_only else None
        sent = []
        for name, weight in policy_weights(policy, changed_only, self._merge):
            self._weights[name].copy_(weight)
            sent.append(name)
        self._source = policy  # all ranks have gathered: after a failure from here on, `restart` is enough
        report = self._load(sent, expected, is_new=not changed_only)
        self.last_sync = report._replace(seconds=time.perf_counter() - start)
        return self.last_sync

    def restart(self) -> None:
        """Replace the process by a new one, which reads the weights of the last `sync` from the shared memory."""
        self._launch()
        if self._slots:
            self.last_sync = self._load([slot.name for slot in self._slots], None, is_new=True)

    def _launch(self) -> None:
        """Start a process in place of the one before, and build the sampler there."""
        with self._launching:
            if self._memory < 0:
                raise RuntimeError("The sampler has been closed.")
            if self._worker is not None:
                self._worker.end()
            self._worker = WorkerConnection(self._memory, self._environment, self._timeout_s)
        self._worker.request("build", self._builder).result()

    def _load(self, names: list[str], expected: list[str] | None, is_new: bool) -> SyncReport:
        """Have the process read weights; `is_new` if it does not know yet where they are."""
        if is_new:
            self._started.request("map", self._slots).result()
        report: SyncReport = self._started.request("load", names, expected).result()
        return report

    def begin(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Future[Completions]:
        """Start sampling; the completions will be on the CPU. Arguments as in `Sampler.generate`.

        `on_group` is called from a thread. The future raises what `generate` would, and `RuntimeError` if the process
        ends.
        """
        request = Prompts(prompts.ids.cpu(), prompts.lengths.cpu(), tuple({} for _ in prompts.examples))
        return self._started.request("generate", request, settings, seed, on_group is not None, on_group=on_group)

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes."""
        completions = self.begin(prompts, settings, seed, on_group).result()
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes."""
        scores: list[list[float]] = self._started.request("probe", [list(sequence) for sequence in token_ids]).result()
        return scores

    def sleep(self) -> None:
        """Nothing to free: the process samples while the policy trains."""

    def close(self) -> None:
        """End the process, killing it if it is busy. The futures of its unfinished jobs raise."""
        with self._launching:
            if self._memory < 0:
                return
            os.close(self._memory)
            self._memory = -1
        if self._worker is not None:
            self._worker.end()

    @property
    def pid(self) -> int:
        """Number of the process that samples now."""
        return self._started.pid

    @property
    def _started(self) -> WorkerConnection:
        assert self._worker is not None
        return self._worker
