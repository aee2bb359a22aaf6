"""The end of a rank's process, after its last collective operation."""

from __future__ import annotations

import atexit
import time
from functools import cache

PAUSE_S = 0.05
"""Time in which a thread that waits for the interpreter gets it many times over."""


@cache
def leave_calmly() -> None:
    """Have this process, once it exits, first let gloo's threads drop the tensors of finished operations.

    A thread that drops one needs the interpreter. If it still waits for it when Python shuts down, the process aborts
    ("terminate called without an active exception"), so a run that did all its work ends with status 134
    (pytorch/pytorch#179291, #190489). Destroying the process groups is no help where a device mesh refers to them.
    """
    atexit.register(time.sleep, PAUSE_S)
