"""Says which rank the others wait for, in which phase, and where each of them is, when a run stands still."""

from __future__ import annotations

import faulthandler
import io
import json
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch.distributed as dist
from typing_extensions import override

from lambda_grpo_pl.callbacks.phases import CLOCK
from lambda_grpo_pl.errors import UserError

LOOKS = 10
"""How often a watch looks around within its bound."""


class Watchdog(L.Callback):
    """Reports a phase that has lasted longer than a bound on any rank, once, with the stack of every rank.

    A run that stands still usually waits in a collective operation for a rank that is somewhere else: in a reward that
    hangs, in an engine that has died, or in another branch of the code. The report names that rank and its phase. The
    run is not ended, since a long phase may be a slow one.

    A thread watches, so it also sees a main thread that hangs in an operation that releases the interpreter.
    """

    def __init__(self, timeout: float = 1800.0) -> None:
        """Keep the setting.

        Args:
            timeout: Seconds that a phase may last; 0 turns the watchdog off. Set it above the longest rollout.
        """
        if timeout < 0:
            raise UserError(f"watchdog.timeout is {timeout:g}: set it to a number of seconds, or to 0 for no watchdog.")
        self.timeout = timeout
        self._watch: Watch | None = None

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to watch, before the model is loaded."""
        if self.timeout > 0 and self._watch is None:
            CLOCK.enter("set up")
            self._watch = Watch(trainer.global_rank, self.timeout, _open_board(trainer.world_size))
            self._watch.start()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the phase."""
        CLOCK.enter("evaluate")

    @override
    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count each batch of an evaluation as a phase."""
        CLOCK.enter("evaluate")

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the phase."""
        CLOCK.enter("checkpoint")

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


class Status(NamedTuple):
    """What a rank says about itself."""

    number: int
    """Phases so far."""
    phase: str
    seconds: float
    """Time in this phase."""


class Board(Protocol):
    """Where ranks leave their status for each other."""

    def exchange(self, rank: int, status: Status) -> list[Status]:
        """Leave this rank's status, and return those of all ranks."""
        ...


class LocalBoard:
    """The board of a single process."""

    def exchange(self, rank: int, status: Status) -> list[Status]:
        """Return the status alone."""
        return [status]


class StoreBoard:
    """A board in torch's own rendezvous store, over a connection that the watching thread alone uses."""

    def __init__(self, store: Any, world_size: int) -> None:
        """Use `store`, which no other thread may use."""
        self._store, self._world_size = store, world_size

    def exchange(self, rank: int, status: Status) -> list[Status]:
        """Exchange through the store; a rank that has not begun counts as at the start."""
        self._store.set(self._key(rank), json.dumps(status))
        return [self._read(other) for other in range(self._world_size)]

    def _read(self, rank: int) -> Status:
        if not self._store.check([self._key(rank)]):
            return Status(0, "start", 0.0)
        return Status(*json.loads(self._store.get(self._key(rank))))

    def _key(self, rank: int) -> str:
        return f"lambda_grpo_watchdog/{rank}"


class Watch(threading.Thread):
    """Looks at all ranks several times within the bound."""

    def __init__(self, rank: int, timeout: float, board: Board) -> None:
        """Watch as `rank`."""
        super().__init__(name="watchdog", daemon=True)
        self._rank, self._timeout, self._board = rank, timeout, board
        self._ended = threading.Event()
        self._reported: list[int] = []

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join(timeout=1.0)

    @override
    def run(self) -> None:
        """Look until stopped, or until the store is gone because another rank has ended."""
        while not self._ended.wait(self._timeout / LOOKS):
            phase = CLOCK.current
            status = Status(phase.number, phase.name, time.monotonic() - phase.since)
            try:
                ranks = self._board.exchange(self._rank, status)
            except (RuntimeError, OSError):
                return
            numbers = [each.number for each in ranks]
            if max(each.seconds for each in ranks) > self._timeout and numbers != self._reported:
                self._reported = numbers
                self._report(ranks)

    def _report(self, ranks: list[Status]) -> None:
        if self._rank == 0:
            print(describe_standstill(ranks, self._timeout), file=sys.stderr, flush=True)
        mine = ranks[self._rank]
        print(f"lambda-grpo watchdog: stack of rank {self._rank}, in {mine.phase}:", file=sys.stderr, flush=True)
        _dump_stacks()


def describe_standstill(ranks: list[Status], timeout: float) -> str:
    """Return the sentence of a report: who is behind, in which phase, and where the others wait."""
    first = min(each.number for each in ranks)
    behind = [rank for rank, each in enumerate(ranks) if each.number == first]
    others = [rank for rank in range(len(ranks)) if rank not in behind]
    where = ", ".join(f"rank {rank} has been in {ranks[rank].phase} for {ranks[rank].seconds:.0f} s" for rank in behind)
    waiting = ", ".join(f"rank {rank} in {ranks[rank].phase} for {ranks[rank].seconds:.0f} s" for rank in others)
    sentence = f"lambda-grpo watchdog: no progress for {timeout:g} s: {where}"
    return f"{sentence}; waiting for it: {waiting}." if waiting else f"{sentence}. (watchdog.timeout sets the bound.)"


def _open_board(world_size: int) -> Board:
    if world_size == 1 or not (dist.is_available() and dist.is_initialized()):
        return LocalBoard()
    store: Any = dist.distributed_c10d._get_default_store()
    return StoreBoard(store.clone(), world_size)


def _dump_stacks() -> None:
    try:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
    except (io.UnsupportedOperation, AttributeError):  # a stderr without a file, as in notebooks
        for frame in sys._current_frames().values():
            traceback.print_stack(frame, file=sys.stderr)
