"""A sampler whose engines are vLLM servers: one or many, on this machine or others.

Each prompt's group goes to one server with a seed of its own, so that it does not matter which server samples it: a
group whose server dies is sampled again by another, with the same seed. A server that was left out takes part again
after the next weight sync, with the new weights.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.completions import join_groups
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.server.client import Server, ServerError
from lambda_grpo_pl.sampling.server.dispatch import Dispatcher
from lambda_grpo_pl.sampling.server.folder import WeightsFolder
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat
from lambda_grpo_pl.sampling.vllm.engine import request_seeds
from lambda_grpo_pl.sampling.weights import is_distributed, policy_weights
from lambda_grpo_pl.sampling_settings import SamplingSettings


class ServerSampler:
    """Samples on vLLM servers with the weights of the last `sync`.

    Under several ranks, rank 0 writes the weights and has the servers load them; every rank samples its own prompts.

    Attributes:
        servers: All servers of the settings, also those that are left out at the moment.
    """

    def __init__(self, config: Any, eos_token_ids: Sequence[int], pad_token_id: int, settings: ServerSettings) -> None:
        """Prepare clients for the policy's transformers configuration `config`. Raises `UserError`."""
        urls, folder = settings.require_complete()
        self.pad_token_id = pad_token_id
        self.last_sync: SyncReport | None = None
        self.servers = [Server(url, settings, pad_token_id) for url in urls]
        self._eos, self._settings = list(eos_token_ids), settings
        self._format = CheckpointFormat(config)
        self._folder = WeightsFolder(folder)

    @property
    def engines(self) -> list[Server]:
        """The servers in use: the self-test proves each."""
        return [server for server in self.servers if server.is_in_use]

    def sync(self, policy: nn.Module) -> SyncReport:
        """Write all weights and have every server that answers load them."""
        if not is_distributed():
            return self.receive(policy_weights(policy))
        outcome: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            try:
                outcome = [(self.receive(policy_weights(policy)), [server.is_in_use for server in self.servers])]
            except UserError as error:
                outcome = [error]
        else:
            for _ in policy_weights(policy):  # gathering is collective
                pass
        torch.distributed.broadcast_object_list(outcome)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        report: SyncReport
        report, in_use = outcome[0]
        for server, is_in_use in zip(self.servers, in_use, strict=True):
            server.adopt(report, is_in_use)
        self.last_sync = report
        return report

    def receive(self, weights: Iterable[tuple[str, Tensor]], expected: Collection[str] | None = None) -> SyncReport:
        """Take over (name, unsharded tensor) pairs, as `ReceivingSampler.receive` describes."""
        start = time.perf_counter()
        sent: list[str] = []

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                sent.append(name)
                yield name, weight

        written = self._folder.write(self._format.convert(noted()))
        wanted = self._format.policy_names if expected is None else expected
        missing = tuple(sorted(set(wanted) - set(sent)))
        report = SyncReport(time.perf_counter() - start, written.num_bytes, tuple(sent), missing)
        with ThreadPoolExecutor(len(self.servers)) as pool:
            failures = list(pool.map(lambda server: _load(server, str(written.folder), report), self.servers))
        self._require_servers(failures)
        self._folder.keep_only(written.folder)
        self.last_sync = report._replace(seconds=time.perf_counter() - start)
        return self.last_sync

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            ValueError: Before the first `sync`.
            UserError: If a server refuses a request, or no server is left.
        """
        self._require_sync()
        group = settings.num_samples
        drawn = replace(settings, num_samples=1) if settings.greedy else settings
        tokens = [prompts.tokens(row) for row in range(len(prompts.lengths))]
        seeds = request_seeds(seed, len(tokens))
        groups: dict[int, Completions] = {}

        def sample(server: Server, number: int) -> Completions:
            return server.sample(tokens[number], drawn, self._eos, seeds[number])

        def collect(number: int, drawn_group: Completions) -> None:
            repeated = [drawn_group] * (group // drawn.num_samples)
            groups[number] = join_groups(repeated, self.pad_token_id)
            if on_group is not None:
                on_group(number, groups[number])

        try:
            Dispatcher(self.servers, sample, collect).run(len(tokens), self._settings.concurrent_groups)
        except ServerError as error:
            raise UserError(self._no_server_left()) from error
        completions = join_groups([groups[number] for number in range(len(tokens))], self.pad_token_id)
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences on the first server in use, as `Sampler.probe` describes."""
        self._require_sync()
        return self.engines[0].probe(token_ids)

    def sleep(self) -> None:
        """Nothing to free: the servers' memory is not the trainer's."""

    def close(self) -> None:
        """Close the connections and delete the weights' folder; the servers go on running."""
        for server in self.servers:
            server.close()
        self._folder.clear()

    def _require_sync(self) -> None:
        if self.last_sync is None:
            raise ValueError("The servers have other weights: call sync(policy) before the first generate or probe.")

    def _require_servers(self, failures: Sequence[str | None]) -> None:
        if not self.engines:
            reasons = "; ".join(failure for failure in failures if failure)
            raise UserError(f"{self._no_server_left()} ({reasons})")

    def _no_server_left(self) -> str:
        return (
            f"None of the servers in rollout.server.urls answers ({', '.join(server.url for server in self.servers)}): "
            "start them with `lambda-grpo serve --run`, and continue this run with --resume."
        )


def _load(server: Server, folder: str, report: SyncReport) -> str | None:
    """Have a server load weights; return why it is left out, or None."""
    if server.was_left_out and not server.is_healthy():  # without retries, which would delay every sync
        return f"{server.url} does not answer"
    try:
        server.load(folder, report)
    except ServerError as error:
        server.leave_out(error)
        return str(error)
    return None
