"""A sampler whose engines are vLLM servers: one or many, on this machine or others.

Each prompt's group goes to one server with a seed of its own, so that it does not matter which server samples it: a
group whose server dies is sampled again by another, with the same seed. A server that was left out takes part again
after the next weight sync, with the new weights. Each sync gives the weights a name, by which a server is found that
samples with others: it has restarted since, or another run has sent it weights.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.completions import join_groups
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.server.channel import WeightChannel
from lambda_grpo_pl.sampling.server.client import Server, ServerError
from lambda_grpo_pl.sampling.server.dispatch import Dispatcher
from lambda_grpo_pl.sampling.server.folder import FolderChannel
from lambda_grpo_pl.sampling.server.settings import ServerSettings, TransferName
from lambda_grpo_pl.sampling.server.stream import WeightStream
from lambda_grpo_pl.sampling.server.transfer import TransferChannel
from lambda_grpo_pl.sampling.vllm.checkpoint import CheckpointFormat
from lambda_grpo_pl.sampling.vllm.engine import request_seeds
from lambda_grpo_pl.sampling.weights import is_distributed
from lambda_grpo_pl.sampling_settings import SamplingSettings

OpenChannel = Callable[[ServerSettings, CheckpointFormat, torch.dtype | None], WeightChannel]
CHANNELS: dict[TransferName, OpenChannel] = {
    "folder": lambda settings, checkpoint, engine_dtype: FolderChannel(settings, checkpoint),
    "nccl": TransferChannel,
    "ipc": TransferChannel,
}
"""`rollout.server.transfer` → what opens it."""


class ServerSampler:
    """Samples on vLLM servers with the weights of the last `sync`.

    Under several ranks, rank 0 brings the weights to the servers; every rank samples its own prompts.

    Attributes:
        servers: All servers of the settings, also those that are left out at the moment.
    """

    def __init__(
        self,
        config: Any,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        settings: ServerSettings,
        engine_dtype: torch.dtype | None = None,
    ) -> None:
        """Prepare clients for the policy's transformers configuration `config`. Raises `UserError`.

        Weights that go from GPU to GPU are rounded to `engine_dtype`, the type the servers compute in, before they are
        sent; None sends them as they are.
        """
        urls = settings.require_urls()
        self.pad_token_id = pad_token_id
        self.last_sync: SyncReport | None = None
        self.servers = [Server(url, settings, pad_token_id) for url in urls]
        self._eos, self._settings = list(eos_token_ids), settings
        self._format = CheckpointFormat(config)
        self._run, self._num_syncs = uuid.uuid4().hex[:8], 0
        self._channel = CHANNELS[settings.transfer](settings, self._format, engine_dtype)

    @property
    def engines(self) -> list[Server]:
        """The servers in use: the self-test proves each."""
        return [server for server in self.servers if server.is_in_use]

    def sync(self, policy: nn.Module) -> SyncReport:
        """Bring all weights to every server that answers."""
        stream = WeightStream.of_policy(policy)
        if not is_distributed():
            return self._deliver(stream)
        if torch.distributed.get_rank() == 0:
            outcome: Any
            try:
                outcome = (self._deliver(stream), [(server.weights, server.is_in_use) for server in self.servers])
            except UserError as error:
                outcome = error
            stream.end(outcome)
        else:
            outcome = self._channel.follow(stream)
        if isinstance(outcome, UserError):
            raise outcome
        report, states = outcome
        for server, state in zip(self.servers, states, strict=True):
            server.adopt(report, *state)
        self.last_sync = report
        return self.last_sync

    def receive(self, weights: Iterable[tuple[str, Tensor]], expected: Collection[str] | None = None) -> SyncReport:
        """Take over (name, unsharded tensor) pairs that are in memory, as `ReceivingSampler.receive` describes."""
        return self._deliver(WeightStream.of_pairs(weights), expected)

    def _deliver(self, stream: WeightStream, expected: Collection[str] | None = None) -> SyncReport:
        start = time.perf_counter()
        self._num_syncs += 1
        delivery = self._channel.send(stream, self.servers, f"{self._run}-{self._num_syncs}")
        wanted = self._format.policy_names if expected is None else expected
        missing = tuple(sorted(set(wanted) - set(stream.sent)))
        report = SyncReport(time.perf_counter() - start, delivery.num_bytes, tuple(stream.sent), missing)
        for server, failure in zip(self.servers, delivery.failures, strict=True):
            if failure is None:
                server.take_part(report)
            else:
                server.leave_out(failure)
        if not self.engines:
            reasons = "; ".join(str(failure) for failure in delivery.failures)
            raise UserError(f"{self._no_server_left()} ({reasons})")
        self.last_sync = report
        return report

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
            sampled = server.sample(tokens[number], drawn, self._eos, seeds[number])
            server.check_weights()
            return sampled

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
        """Close the connections and delete weights that were left for servers; the servers go on running."""
        for server in self.servers:
            server.close()
        self._channel.close()

    def _require_sync(self) -> None:
        if self.last_sync is None:
            raise ValueError("The servers have other weights: call sync(policy) before the first generate or probe.")

    def _no_server_left(self) -> str:
        return (
            f"None of the servers in rollout.server.urls answers ({', '.join(server.url for server in self.servers)}): "
            "start them with `lambda-grpo serve --run`, and continue this run with --resume."
        )
