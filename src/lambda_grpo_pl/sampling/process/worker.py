"""The other end of `SamplerProcess`: builds a sampler, and does one job after another until the trainer is gone.

    trainer ── recipe, then (job, verb, arguments) ──▶ worker
    trainer ◀── (job, "group" | "result" | "error", value) ── worker

Run as `python -m lambda_grpo_pl.sampling.process.worker CONNECTION MEMORY`, two inherited file descriptors. It is a
fresh interpreter: it shares no CUDA context, no random state and no lock with the trainer, nor the user's `__main__`.
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
from typing import Any

from torch import Tensor

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling.factory import SamplerRecipe
from lambda_grpo_pl.sampling.process.shared_weights import Slot, map_slots
from lambda_grpo_pl.sampling.protocol import SamplingSettings, SyncReport


class Worker:
    """What the trainer may ask for, by the name of the method."""

    def __init__(self, connection: Connection, memory: int) -> None:
        self._connection, self._memory = connection, memory
        self._weights: dict[str, Tensor] = {}

    def serve(self) -> None:
        """Do jobs until the trainer closes the connection."""
        while True:
            job, verb, arguments = pickle.loads(self._connection.recv_bytes())
            try:
                self._send(job, "result", getattr(self, verb)(job, *arguments))
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever it is, it is the trainer's to hear
                self._send(job, "error", _portable(error))

    def build(self, job: int, recipe: SamplerRecipe) -> None:
        """Build the sampler: the first job."""
        self._sampler: Any = recipe.build(with_model=True)

    def map(self, job: int, slots: list[Slot]) -> None:
        """Learn where the trainer writes its weights."""
        self._weights = map_slots(self._memory, slots)

    def load(self, job: int, names: Sequence[str], due: Collection[str] | None) -> SyncReport:
        """Read the weights that were just written."""
        report: SyncReport = self._sampler.receive(((name, self._weights[name]) for name in names), due)
        return report

    def generate(self, job: int, prompts: Prompts, settings: SamplingSettings, seed: int, heard: bool) -> Completions:
        """Sample, and tell of groups that have ended if they are `heard`."""

        def tell(number: int, group: Completions) -> None:
            self._send(job, "group", (number, group))

        completions: Completions = self._sampler.generate(prompts, settings, seed, tell if heard else None)
        return completions

    def probe(self, job: int, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences."""
        scores: list[list[float]] = self._sampler.probe(token_ids)
        return scores

    def end(self, job: int) -> None:
        """End the process."""
        os._exit(0)  # nothing to put away: the weights and the engine's memory end with the process

    def _send(self, job: int, kind: str, value: Any) -> None:
        self._connection.send_bytes(pickle.dumps((job, kind, value)))


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the journey, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError):
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def main() -> None:
    """Serve until the trainer is gone; an interrupt from the keyboard is the trainer's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")  # nothing that a user could mend
    try:
        Worker(Connection(int(sys.argv[1])), int(sys.argv[2])).serve()
    except (EOFError, ConnectionError):  # the trainer is gone
        os._exit(0)


if __name__ == "__main__":
    main()
