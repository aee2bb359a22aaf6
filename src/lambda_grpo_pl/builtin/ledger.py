"""The built-in task whose wrong answers are long: a running total modulo 10.

A question is a chain such as `7+4-2+9=`; the right solution repeats each step with the total after it, then the marker
and the last total: `+41-29+98####8`. A wrong solution has one error, after which its writer is lost: random characters
follow, 50 on average, before a wrong answer. Right solutions therefore have about 15 tokens and wrong ones about 55
under a limit of 128, where some are truncated. The useless tail looks like valid steps, so a loss that gives every
token the same weight spends most of its gradient there, and a length preference has something to do.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lambda_grpo_pl.builtin.arithmetic import MARKER
from lambda_grpo_pl.builtin.splits import Split, draw_distinct, split_of

MIN_STEPS, MAX_STEPS = 3, 5
TAIL = "0123456789+-"


@dataclass(frozen=True)
class Ledger:
    """A first digit and the signed digits that are added to it."""

    start: int
    steps: tuple[int, ...]

    @property
    def question(self) -> str:
        """The text the policy continues."""
        return f"{self.start}{''.join(f'{step:+d}' for step in self.steps)}="

    @property
    def totals(self) -> list[int]:
        """The running total modulo 10 after each step."""
        totals, total = [], self.start
        for step in self.steps:
            total = (total + step) % 10
            totals.append(total)
        return totals

    @property
    def solution(self) -> str:
        """The right solution."""
        return f"{''.join(_lines(self.steps, self.totals))}{MARKER}{self.totals[-1]}"


def draw_ledger(rng: random.Random, split: Split) -> Ledger:
    """Draw a problem of `split` with 3 to 5 steps."""
    while True:
        digits = [rng.choice((-1, 1)) * rng.randint(1, 9) for _ in range(rng.randint(MIN_STEPS, MAX_STEPS))]
        ledger = Ledger(rng.randint(0, 9), tuple(digits))
        if split_of(ledger.question) == split:
            return ledger


@dataclass(kw_only=True)
class LedgerTraces:
    """Solutions for the warm-up: the method first without errors, then with them."""

    right_share: float = 0.4
    """Share of right solutions, once errors begin."""
    mean_tail: float = 50.0
    """Mean number of random characters after an error; their number is geometric."""
    clean_share: float = 0.75
    """Share of the warm-up before errors begin: the method is learned first, and the errors after it."""
    source: ClassVar[str] = "ledger.py"

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question and a solution."""
        ledger = draw_ledger(rng, "train")
        if progress < self.clean_share or rng.random() < self.right_share:
            return ledger.question, ledger.solution
        return ledger.question, self.lose_track(ledger, rng)

    def lose_track(self, ledger: Ledger, rng: random.Random) -> str:
        """Write a solution with an error at a random step, a useless tail and a wrong answer."""
        totals = ledger.totals
        place = rng.randrange(len(totals))
        totals = [*totals[:place], _other(totals[place], rng)]
        tail = "".join(rng.choice(TAIL) for _ in range(_geometric(self.mean_tail, rng)))
        lines = "".join(_lines(ledger.steps[: place + 1], totals))
        return f"{lines}{tail}{MARKER}{_other(ledger.totals[-1], rng)}"


class LedgerTask(Sequence[dict[str, str]]):
    """Rows `{"id", "question", "answer", "solution"}` of one split; row i depends on (seed, split, i) alone."""

    def __init__(self, split: Split = "train", size: int = 16384, seed: int = 0) -> None:
        """Make `size` rows. Raises `UserError` for an unknown split or size."""
        self.rows = [
            {
                "id": f"ledger-{split}-{index}",
                "question": ledger.question,
                "answer": str(ledger.totals[-1]),
                "solution": ledger.solution,
            }
            for index, ledger in enumerate(draw_distinct(lambda rng: draw_ledger(rng, split), split, size, seed))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one row, or a list of rows for a slice."""
        return self.rows[index]


def _lines(steps: Sequence[int], totals: Sequence[int]) -> list[str]:
    return [f"{step:+d}{total}" for step, total in zip(steps, totals, strict=True)]


def _other(digit: int, rng: random.Random) -> int:
    return (digit + rng.randint(1, 9)) % 10


def _geometric(mean: float, rng: random.Random) -> int:
    """Draw from 1, 2, … with the given mean."""
    return 1 + math.floor(math.log(1 - rng.random()) / math.log(1 - 1 / mean))
