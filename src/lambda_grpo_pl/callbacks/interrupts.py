"""Ctrl-C, SIGTERM and SIGUSR1 during a fit: each ends the run where its state can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

PREEMPTED = 75
"""Exit status after SIGUSR1: EX_TEMPFAIL of sysexits.h, by which a job script knows to requeue."""


class PreemptedException(SIGTERMException):
    """SIGUSR1: the scheduler takes the machine back, and the job shall be requeued."""


EXCEPTIONS: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: SIGTERMException,
    signal.SIGUSR1: PreemptedException,
}
"""Signal → the exception that ends the fit."""


class Interrupts:
    """Turns signals into exceptions at moments when the run can be saved.

    Between updates that is at once. A signal that arrives inside an update, or while a checkpoint is written, waits for
    its end; so does every signal to one of several ranks, since all of them have to save together: they agree at the
    end of a batch. A second Ctrl-C does not wait.

    Lightning's own handlers are replaced during a fit. Under SLURM they would save in the middle of an update, and with
    several ranks communicate inside the handler.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._pending = 0
        self._holds = 0
        self._waits_for_ranks = False

    def install(self, world_size: int) -> None:
        """Handle signals from now on; only a main thread can."""
        self._pending, self._holds, self._waits_for_ranks = 0, 0, world_size > 1
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in EXCEPTIONS}

    def restore(self) -> None:
        """Put back the handlers that were there before `install`."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous, self._pending = {}, 0  # what has been raised must not be raised again by the last save

    def hold(self) -> None:
        """Let signals wait until `release`."""
        self._holds += 1

    def release(self) -> None:
        """End a `hold`; what came in between is raised by the next `check`."""
        self._holds -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait inside this context, and raise what waited after it unless ranks have to agree first."""
        self.hold()
        try:
            yield
        finally:
            self.release()
        if self._pending and not self._holds and not self._waits_for_ranks:
            self._raise(self._pending)

    def check(self, trainer: L.Trainer, device: torch.device) -> None:
        """Raise the exception of a signal that any rank has received; collective."""
        pending = self._pending
        if self._waits_for_ranks:
            mine = torch.tensor(float(pending), device=device)
            pending = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if pending:
            self._raise(pending)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self._pending == signal.SIGINT == number
        if again or not (self._holds or self._waits_for_ranks):
            self._raise(number)
        if not self._pending:
            at_once = " (Ctrl-C again to leave at once)" if number == signal.SIGINT else ""
            rank_zero_info(f"{signal.Signals(number).name}: saving at the end of this update{at_once}.")
        self._pending = number

    def _raise(self, number: int) -> None:
        self._pending = number
        raise EXCEPTIONS[number]
