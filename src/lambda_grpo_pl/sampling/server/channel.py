"""How weights reach servers: one protocol, and the place where `rollout.server.transfer` chooses what implements it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from lambda_grpo_pl.sampling.server.client import Server, ServerError
from lambda_grpo_pl.sampling.server.stream import WeightStream


class Delivery(NamedTuple):
    """What became of one weight sync."""

    num_bytes: int
    """Bytes that one server was sent."""
    failures: list[ServerError | None]
    """For each server, why it does not have the weights; None if it has."""


class WeightChannel(Protocol):
    """A way for weights to servers. A new one is a class and an entry in `sampler.CHANNELS`."""

    def send(self, stream: WeightStream, servers: Sequence[Server], name: str) -> Delivery:
        """Bring all weights to each server that answers, in passes of `stream` (`WeightStream.one_pass`).

        The weights are called `name` there from then on (`Server.name_weights`). Only rank 0 calls it. Raises
        `UserError` for what the user has to change.
        """
        ...

    def follow(self, stream: WeightStream) -> Any:
        """Take part in the passes that rank 0's `send` makes, and return what rank 0 ends the stream with."""
        ...

    def close(self) -> None:
        """Free what was needed to send; the servers go on running."""
        ...


def attempt(server: Server, load: Callable[[Server], object], name: str) -> ServerError | None:
    """Have a server take weights by `load`, name them and drop its cache; return why it has not, or None.

    Raises `UserError`.
    """
    if server.was_left_out and not server.is_healthy():  # without retries, which would delay every sync
        return ServerError(f"{server.url} does not answer")
    try:
        server.greet()
        load(server)
        server.name_weights(name)
        server.request("POST", "/reset_prefix_cache")
    except ServerError as error:
        return error
    return None
