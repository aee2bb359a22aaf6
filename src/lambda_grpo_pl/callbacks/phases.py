"""Which phase of a run this process is in: sync, sample, score, train, evaluate, checkpoint."""

from __future__ import annotations

import time
from typing import NamedTuple

OTHER = "other"
"""Between phases, such as while data is read."""


class Phase(NamedTuple):
    """What a process does at present."""

    number: int
    """Counts the phases so far. Ranks go through the same ones, so a lower number means behind."""
    name: str
    """Such as `sample`."""
    since: float
    """When it began, by `time.monotonic`."""


class PhaseClock:
    """The present phase of this process. Written by the main thread, read by the watchdog's."""

    def __init__(self) -> None:
        """Begin outside of all phases."""
        self.current = Phase(0, OTHER, time.monotonic())

    def enter(self, name: str) -> None:
        """Begin a phase; the one before ends."""
        self.current = Phase(self.current.number + 1, name, time.monotonic())


CLOCK = PhaseClock()
"""This process's: a process is in one phase at a time, whatever objects it holds."""
