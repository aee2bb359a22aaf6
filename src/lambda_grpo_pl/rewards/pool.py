"""A process pool whose workers can be killed: a hard time-out per call, order kept, from any thread.

`concurrent.futures` cannot kill a worker that computes 9^9^9, and SIGALRM works in no thread but the first. Here each
worker answers a chunk of calls one reply at a time; the caller watches the clock of the call that runs. A worker that
overruns, runs out of memory or crashes costs exactly that one call (its outcome is `None`); the rest of its chunk
starts again elsewhere. Workers are not forked from this process (CUDA, threads) and never import `__main__`: see
`worker`.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.spec import PoolConfig
from lambda_grpo_pl.rewards.worker import Setup, write_frame

logger = logging.getLogger(__name__)

_MAX_CHUNK = 64
_MAX_RESTARTS = 3
_SHORTENED = 10
"""The time limit is divided by this once overruns have cost a batch its `overrun_budget_s`."""


class Call(NamedTuple):
    """One call of the pool's function number `function`."""

    function: int
    args: tuple[Any, ...]


@dataclass(eq=False)
class _Worker:
    """One slot as the caller sees it."""

    slot: int
    requests: int
    replies: int
    pid: int = 0
    """The worker that serves it now."""
    ready: bool = False
    """It waits for a chunk."""
    chunk: deque[int] = field(default_factory=deque)
    """Calls sent and not answered; the first one is running."""
    deadline: float = float("inf")
    """`time.monotonic()` at which the running call has overrun."""
    killed_for: int | None = None
    """The call it is being killed for."""
    buffer: bytes = b""


class _KeeperLost(Exception):
    """The keeper process ended; everything it kept must be started again."""


class VerifierPool:
    """Run calls of `functions` (number → picklable function) in workers; `warm_up` runs in them before the first call.

    Raises `ValueError` for a function that lives in `__main__`, which workers do not import.
    """

    def __init__(
        self,
        config: PoolConfig,
        functions: Mapping[int, Callable[..., Any]],
        warm_up: Sequence[Callable[[], object]] = (),
    ) -> None:
        for function in functions.values():
            if getattr(function, "__module__", None) == "__main__":
                raise UserError(f"Move {function!r} into a separate module: isolated workers do not import __main__.")
        self.config, self.functions, self.warm_up = config, dict(functions), list(warm_up)
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self._reported: set[str] = set()
        self._lost_s = 0.0

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Results in the order of `calls`, JSON values; None for a call that overran, crashed or raised.

        Raises `RuntimeError` if no worker can be started at all.
        """
        if not calls:
            return []
        with self._lock:
            results: dict[int, Any] = {}
            self._lost_s = 0.0
            for _ in range(_MAX_RESTARTS):
                try:
                    self._drain(calls, results)
                    return [results[index] for index in range(len(calls))]
                except _KeeperLost:
                    self._stop()
            raise RuntimeError("Verifier workers exit on startup; see their traceback above.")

    def close(self) -> None:
        """Stop the workers; a later `run` starts new ones."""
        with self._lock:
            self._stop()

    def _drain(self, calls: Sequence[Call], results: dict[int, Any]) -> None:
        """Hand out what has no result yet and collect until everything has one."""
        if self._keeper is None:
            self._start()
        todo = [index for index in range(len(calls)) if index not in results]
        size = max(1, min(_MAX_CHUNK, len(todo) // (4 * self.config.size)))
        pending = deque(todo[start : start + size] for start in range(0, len(todo), size))
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            while len(results) < len(calls):
                self._hand_out(calls, pending)
                patience = min(worker.deadline for worker in self._workers) - time.monotonic()
                for key, _ in selector.select(None if patience == float("inf") else max(0.0, patience)):
                    self._collect(key.data, results, pending)
                self._kill_overrun()

    def _hand_out(self, calls: Sequence[Call], pending: deque[list[int]]) -> None:
        for worker in self._workers:
            if worker.ready and pending:
                worker.chunk.extend(pending.popleft())
                worker.ready = False
                self._send(worker.requests, [(index, *calls[index]) for index in worker.chunk])
                worker.deadline = time.monotonic() + self._limit_s

    def _collect(self, worker: _Worker, results: dict[int, Any], pending: deque[list[int]]) -> None:
        """Read what a worker wrote: replies in order, those of a chunk given up dropped, or that it is ready."""
        received = os.read(worker.replies, 1 << 16)
        if not received:
            raise _KeeperLost
        *lines, worker.buffer = (worker.buffer + received).split(b"\n")
        for line in lines:
            reply = json.loads(line)
            if "ready" in reply:
                self._take_over(worker, reply["ready"], results, pending)
            elif worker.chunk and reply["call"] == worker.chunk[0]:
                results[worker.chunk.popleft()] = self._outcome(reply)
                worker.deadline = time.monotonic() + self._limit_s if worker.chunk else float("inf")

    def _take_over(self, worker: _Worker, pid: int, results: dict[int, Any], pending: deque[list[int]]) -> None:
        """The slot asks for a chunk. If calls are outstanding, their worker died and this is its replacement.

        The call that ran has failed, the others of its chunk start again elsewhere.
        """
        if worker.killed_for is not None and worker.pid == pid:
            return  # It finished as the order to kill it went out; its replacement will ask.
        if worker.chunk and worker.killed_for in (None, worker.chunk[0]):
            results[worker.chunk.popleft()] = None
            if worker.killed_for is None:
                memory = f"more than reward.pool.memory_gb ({self.config.memory_gb:g} GiB)"
                self._report("died", f"ended its process, as by a crash or by using {memory}")
        if worker.chunk:
            pending.appendleft(list(worker.chunk))
            worker.chunk.clear()
        worker.ready, worker.pid, worker.deadline, worker.killed_for = True, pid, float("inf"), None

    @property
    def _limit_s(self) -> float:
        """Seconds the next answer may take; short in a batch in which many overrun, so that a storm ends."""
        return self.config.timeout_s / (_SHORTENED if self._lost_s >= self.config.overrun_budget_s else 1)

    def _kill_overrun(self) -> None:
        for worker in self._workers:
            if worker.deadline <= time.monotonic():
                self._lost_s += self._limit_s
                worker.killed_for, worker.deadline = worker.chunk[0], float("inf")
                limit = f"reward.pool.timeout_s ({self.config.timeout_s:g} s)"
                self._report("timeout", f"took longer than {limit} and was stopped")
                assert self._keeper is not None
                assert self._keeper.stdin is not None
                self._order(self._keeper.stdin.fileno(), worker.slot)

    def _outcome(self, reply: dict[str, Any]) -> Any:
        if "error" in reply:
            self._report("error", f"raised {reply['error']}")
        return reply.get("value")

    def _report(self, kind: str, what: str) -> None:
        """Log the first failure of each kind."""
        if kind not in self._reported:
            self._reported.add(kind)
            logger.warning(
                "A verifier %s; its response counts as failed. Later failures of this kind are counted "
                "(reward/verifier_failed) without a message.",
                what.rstrip("."),
            )

    def _send(self, fd: int, value: object) -> None:
        try:
            write_frame(fd, value)
        except BrokenPipeError:
            raise _KeeperLost from None

    def _order(self, fd: int, slot: int) -> None:
        try:
            os.write(fd, bytes([slot]))
        except BrokenPipeError:
            raise _KeeperLost from None

    def _start(self) -> None:
        pipes = [(os.pipe(), os.pipe()) for _ in range(self.config.size)]
        worker_ends = [(request[0], reply[1]) for request, reply in pipes]
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", "from lambda_grpo_pl.rewards.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=2,
            bufsize=0,
            pass_fds=[fd for pair in worker_ends for fd in pair],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        for fd in (fd for pair in worker_ends for fd in pair):
            os.close(fd)
        self._workers = [_Worker(slot, request[1], reply[0]) for slot, (request, reply) in enumerate(pipes)]
        ours = [fd for worker in self._workers for fd in (worker.requests, worker.replies)]
        self._finalizer = weakref.finalize(self, _end, self._keeper, ours)
        assert self._keeper.stdin is not None
        memory_bytes = int(self.config.memory_gb * 2**30)
        setup = Setup(self.functions, self.warm_up, worker_ends, memory_bytes, self.config.recycle_after)
        self._send(self._keeper.stdin.fileno(), setup)

    def _stop(self) -> None:
        if self._keeper is not None:
            self._finalizer()
            self._keeper, self._workers = None, []


def _end(keeper: subprocess.Popen[bytes], fds: Iterable[int]) -> None:
    """Kill the keeper and its workers, which share its process group, also if it ended before them."""
    assert keeper.stdin is not None
    os.killpg(keeper.pid, signal.SIGKILL)
    keeper.stdin.close()
    for fd in fds:
        os.close(fd)
    keeper.wait()
