"""The policy's weights as servers are sent them: in one or several passes, each made by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lambda_grpo_pl.sampling.weights import is_distributed, policy_weights, weight_layout

Layout = Sequence[tuple[str, torch.Size, torch.dtype]]
"""Name, unsharded shape and type of each tensor, in the order in which they are read."""


class WeightStream:
    """(name, unsharded tensor) pairs, one at a time, which rank 0 may read several times.

    Gathering a sharded tensor is collective, so all ranks make the same passes: rank 0 announces each (`one_pass`) and
    hands over the outcome (`end`), the others `follow`.

    Attributes:
        layout: What a pass yields.
        sent: Names that the latest pass has yielded so far.
        error: What reading raised, if it did: no server's fault.
    """

    def __init__(self, layout: Layout, read: Callable[[], Iterable[tuple[str, Tensor]]], is_shared: bool) -> None:
        """Call `read` for each pass; `is_shared` if other ranks `follow`."""
        self.layout, self.sent = layout, list[str]()
        self.error: Exception | None = None
        self._read, self._is_shared = read, is_shared
        self._unread: Iterator[tuple[str, Tensor]] | None = None

    @classmethod
    def of_policy(cls, policy: nn.Module) -> WeightStream:
        """Return the stream of a policy's weights, as `policy_weights` yields them."""
        return cls(weight_layout(policy), lambda: policy_weights(policy), is_distributed())

    @classmethod
    def of_pairs(cls, weights: Iterable[tuple[str, Tensor]]) -> WeightStream:
        """Return the stream of tensors that are in memory and concern no other rank."""
        pairs = list(weights)
        return cls([(name, weight.shape, weight.dtype) for name, weight in pairs], lambda: pairs, is_shared=False)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.sent = []
        self._unread = self._watched()
        return self._unread

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """On rank 0: read the stream at most once in the body; what is left unread, all ranks read afterwards."""
        self._unread = None
        self._tell(("pass", None))
        try:
            yield
        finally:
            if self._is_shared:
                for _ in self if self._unread is None else self._unread:
                    pass

    def end(self, outcome: Any) -> None:
        """On rank 0: let the others' `follow` return `outcome`, which is pickled."""
        self._tell(("end", outcome))

    def follow(self, make_pass: Callable[[], object] | None = None) -> Any:
        """On the other ranks: make each pass that rank 0 announces, until it ends; return the outcome.

        `make_pass` reads the stream once, to its end. None: nothing is done with what is read.
        """
        while True:
            message: list[Any] = [None]
            torch.distributed.broadcast_object_list(message)
            kind, outcome = message[0]
            if kind == "end":
                return outcome
            if make_pass is not None:
                make_pass()
            else:
                for _ in self:
                    pass

    def _watched(self) -> Iterator[tuple[str, Tensor]]:
        try:
            for name, weight in self._read():
                self.sent.append(name)
                yield name, weight
        except Exception as error:
            self.error = error
            raise

    def _tell(self, message: tuple[str, Any]) -> None:
        if self._is_shared:
            torch.distributed.broadcast_object_list([message])
