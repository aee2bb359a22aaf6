"""Judging responses while later ones are still being sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from lambda_grpo_pl.rewards.calls import Row
from lambda_grpo_pl.rewards.suite import Columns, RewardSuite, as_rows, find_groups
from lambda_grpo_pl.rewards.verdict import Verdict


class _Part(NamedTuple):
    """Some rows of the batch, from number `first` on."""

    first: int
    completions: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[int]
    """Sizes of the groups in the part."""


class JudgingAhead:
    """Hands parts of a batch to a suite's verifier processes as they come, from a thread that only waits for them.

    Only isolated rewards are judged ahead: the others would compete with the sampler for this process, and a user's
    function may not expect a thread. Parts that came while the pool was busy are judged together.
    """

    def __init__(self, suite: RewardSuite) -> None:
        """Judge with `suite`; the thread starts with the first part."""
        self._suite = suite
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judging")
        self._waiting: SimpleQueue[_Part] = SimpleQueue()
        self._turns: list[Future[None]] = []
        self._verdicts: dict[int, dict[int, Verdict]] = {}

    def add(
        self,
        first: int,
        completions: Sequence[str],
        examples: Sequence[Mapping[str, Any]],
        lengths: Sequence[int],
        truncated: Sequence[bool],
    ) -> None:
        """Judge rows first, first + 1, … of the batch in the background, in whole groups; arguments as in `score`."""
        rows = as_rows(completions, examples, lengths, truncated)
        self._waiting.put(_Part(first, completions, rows, find_groups(examples)))
        self._turns.append(self._thread.submit(self._judge_waiting))

    def finish(self) -> Columns:
        """Wait for the pool, and return the verdicts in the order of the rows. Raises what the pool raised."""
        for turn in self._turns:
            turn.result()
        self._thread.shutdown()
        return {number: [found[row] for row in sorted(found)] for number, found in self._verdicts.items()}

    def _judge_waiting(self) -> None:
        parts: list[_Part] = []
        try:
            while True:
                parts.append(self._waiting.get_nowait())
        except Empty:
            pass
        if not parts:  # an earlier turn took them
            return
        places = [part.first + offset for part in parts for offset in range(len(part.completions))]
        columns = self._suite.judge(
            [text for part in parts for text in part.completions],
            [row for part in parts for row in part.rows],
            [size for part in parts for size in part.groups],
        )
        for number, verdicts in columns.items():
            self._verdicts.setdefault(number, {}).update(zip(places, verdicts, strict=True))
