"""The pool's other end: a keeper process that imports the verifiers once, and the workers it forks.

The keeper is started as a fresh interpreter, so it shares nothing with the trainer: no CUDA context, no threads, not
the user's `__main__`. It is single-threaded, which makes its own forks safe and a replacement worker a matter of
milliseconds instead of an import of a computer algebra system. It ends, and its workers with it, when its standard
input closes: also when the trainer is killed.

    trainer ── stdin: setup, then one byte per slot to kill ──▶ keeper ── fork ──▶ worker (one per slot)
    trainer ── request pipe of a slot: length-prefixed pickles ────────────────────▶ worker
    trainer ◀── reply pipe of a slot: one JSON line per call, "ready" for each chunk ── worker

Requests come from the trainer and are trusted. Replies come from a process that read a policy's text, hence JSON.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

LENGTH = struct.Struct("!I")


class Setup(NamedTuple):
    """What the keeper reads first."""

    functions: Mapping[int, Callable[..., Any]]
    """Functions by the number that calls name them with."""
    warm_up: Sequence[Callable[[], object]]
    """Called once before the first fork, for imports and caches."""
    pipes: Sequence[tuple[int, int]]
    """File descriptors (requests, replies) of each slot."""
    memory_bytes: int
    """RLIMIT_AS of a worker."""
    recycle_after: int
    """Calls after which a worker makes room for a fresh one."""


def write_frame(fd: int, value: object) -> None:
    """Write one pickled value with its length in front."""
    payload = pickle.dumps(value)
    view = memoryview(LENGTH.pack(len(payload)) + payload)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int) -> Any:
    """Read one value; `EOFError` when the other end closed."""
    (length,) = LENGTH.unpack(_read_exactly(fd, LENGTH.size))
    return pickle.loads(_read_exactly(fd, length))


def _read_exactly(fd: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(fd, min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def main() -> None:
    """Run the keeper: fork a worker per slot, kill and replace on demand, until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup: Setup = read_frame(sys.stdin.fileno())
    for warm_up in setup.warm_up:
        warm_up()
    gc.freeze()
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    slots = {_fork(setup, slot): slot for slot in range(len(setup.pipes))}
    while True:
        readable, _, _ = select.select([sys.stdin.fileno(), wake_read], [], [])
        if sys.stdin.fileno() in readable:
            orders = os.read(sys.stdin.fileno(), 64)
            for pid, slot in slots.items():
                if not orders or slot in orders:
                    os.kill(pid, signal.SIGKILL)
            if not orders:
                return
        if wake_read in readable:
            os.read(wake_read, 4096)
        for pid in [pid for pid in slots if os.waitpid(pid, os.WNOHANG)[0]]:
            slot = slots.pop(pid)
            slots[_fork(setup, slot)] = slot


def _fork(setup: Setup, slot: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _serve(setup, slot)
            code = 0
        finally:
            os._exit(code)
    return pid


def _serve(setup: Setup, slot: int) -> None:
    """Answer the requests of one slot in order; every reply leaves at once, so that the trainer can time each call."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _isolate(setup, slot)
    requests, replies = setup.pipes[slot]
    ready = json.dumps({"ready": os.getpid()}).encode() + b"\n"
    num_calls = 0
    while num_calls < setup.recycle_after:
        os.write(replies, ready)
        try:
            calls = read_frame(requests)
        except EOFError:
            # The trainer is closing; the keeper ends this process. If it exited, that would look like a crash.
            signal.pause()
        for index, number, args in calls:
            os.write(replies, _call(index, setup.functions[number], args))
        num_calls += len(calls)


def _call(index: int, function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """The reply to call `index`.

    A verifier may raise anything on hostile text, recursion and `SystemExit` included: an outcome to report. Only
    exhausted memory ends the process, without a reply: a fresh one is fitter for the next call.
    """
    try:
        return json.dumps({"call": index, "value": function(*args)}).encode() + b"\n"
    except MemoryError:
        raise
    except BaseException as error:
        return json.dumps({"call": index, "error": f"{type(error).__name__}: {error}"[:200]}).encode() + b"\n"


def _isolate(setup: Setup, slot: int) -> None:
    """Cap memory; drop the other slots' pipes and the keeper's orders."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    for other, pipes in enumerate(setup.pipes):
        if other != slot:
            for fd in pipes:
                os.close(fd)
