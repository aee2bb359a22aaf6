"""Work spread over servers: whoever is free takes the next group, and what a failing server had goes to another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Generic, TypeVar

from lambda_grpo_pl.sampling.server.client import Server, ServerError

Result = TypeVar("Result")


class Dispatcher(Generic[Result]):
    """Runs numbered pieces of work on the servers in use, each once; a server that fails is left out.

    The result of a piece does not depend on the server that does it, since its seed goes with it.
    """

    def __init__(
        self, servers: Sequence[Server], work: Callable[[Server, int], Result], on_result: Callable[[int, Result], None]
    ) -> None:
        """`on_result` gets each number and result, one at a time, in the order in which they end."""
        self._servers, self._work, self._on_result = servers, work, on_result
        self._waiting: deque[int] = deque()
        self._num_open = 0
        self._error: BaseException | None = None
        self._changed = Condition()

    def run(self, num_pieces: int, per_server: int) -> None:
        """Do all the work, `per_server` pieces at a time on each server.

        Raises `ServerError` if no server is left, and whatever else `work` or `on_result` raises.
        """
        self._waiting, self._num_open = deque(range(num_pieces)), num_pieces
        threads = [
            Thread(target=self._serve, args=(server,), daemon=True)
            for _ in range(min(per_server, num_pieces))  # in turns, so that little work is spread too
            for server in self._servers
            if server.is_in_use
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if self._num_open:
            raise ServerError("no server is left")

    def _serve(self, server: Server) -> None:
        while (number := self._take(server)) is not None:
            try:
                result = self._work(server, number)
                with self._changed:
                    if self._error is None:
                        self._on_result(number, result)
                    self._num_open -= 1
                    self._changed.notify_all()
            except ServerError as error:
                with self._changed:
                    self._waiting.appendleft(number)
                    server.leave_out(error)
                    self._changed.notify_all()
            except BaseException as error:  # raised again by `run`
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()

    def _take(self, server: Server) -> int | None:
        """Return the next number, once there is one; None if the server has nothing more to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or not self._num_open or self._error is not None or not server.is_in_use
            )
            if not self._waiting or self._error is not None or not server.is_in_use:
                return None
            return self._waiting.popleft()
