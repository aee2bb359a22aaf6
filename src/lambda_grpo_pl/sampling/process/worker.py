"""The other end of `SamplerProcess`: builds a sampler, then runs one job after another until the trainer exits.

    trainer ── builder, then (job, method, arguments) ──▶ worker
    trainer ◀── (job, "group" | "result" | "error", value) ── worker

Run as `python -m lambda_grpo_pl.sampling.process.worker CONNECTION MEMORY`, two inherited file descriptors. It is a
fresh interpreter that shares no CUDA context, random state or lock with the trainer, and not the user's `__main__`.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from torch import Tensor

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling.factory import SamplerBuilder
from lambda_grpo_pl.sampling.process.shared_weights import Slot, map_slots
from lambda_grpo_pl.sampling.protocol import ReceivingSampler, SyncReport
from lambda_grpo_pl.sampling_settings import SamplingSettings


class Worker:
    """The jobs that the trainer may request, by the name of the method."""

    def __init__(self, connection: Connection, memory: int) -> None:
        self._connection, self._memory = connection, memory
        self._weights: dict[str, Tensor] = {}

    def serve(self) -> None:
        """Run jobs until the trainer closes the connection."""
        while True:
            job, method, arguments = pickle.loads(self._connection.recv_bytes())
            try:
                self._send(job, "result", getattr(self, method)(job, *arguments))
            except BrokenPipeError:
                raise
            except Exception as error:
                self._send(job, "error", _portable(error))

    def build(self, job: int, builder: SamplerBuilder) -> None:
        """Build the sampler: the first job."""
        self._sampler: ReceivingSampler = builder.build(with_model=True)

    def map(self, job: int, slots: list[Slot]) -> None:
        """Map the memory that the trainer writes weights to."""
        self._weights = map_slots(self._memory, slots)

    def load(self, job: int, names: Sequence[str], expected: Collection[str] | None) -> SyncReport:
        """Read the weights that the trainer has just written."""
        return self._sampler.receive(((name, self._weights[name]) for name in names), expected)

    def generate(self, job: int, prompts: Prompts, settings: SamplingSettings, seed: int, report: bool) -> Completions:
        """Sample; with `report`, send each group when it has ended."""

        def send(number: int, group: Completions) -> None:
            self._send(job, "group", (number, group))

        return self._sampler.generate(prompts, settings, seed, send if report else None)

    def probe(self, job: int, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences."""
        return self._sampler.probe(token_ids)

    def end(self, job: int) -> None:
        """End the process."""
        os._exit(0)  # nothing to clean up: the weights and the engine's memory end with the process

    def _send(self, job: int, kind: Literal["group", "result", "error"], value: Any) -> None:
        self._connection.send_bytes(pickle.dumps((job, kind, value)))


def _portable(error: Exception) -> Exception:
    """Return the error itself if it can be pickled, else a `RuntimeError` with its traceback."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError):
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def main() -> None:
    """Serve until the trainer exits; the trainer handles interrupts from the keyboard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")  # users cannot act on these
    try:
        Worker(Connection(int(sys.argv[1])), int(sys.argv[2])).serve()
    except (EOFError, ConnectionError):  # the trainer has exited
        os._exit(0)


if __name__ == "__main__":
    main()
