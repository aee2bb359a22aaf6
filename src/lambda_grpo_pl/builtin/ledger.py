"""The built-in task of the length regimes: a running total modulo 5, and what a writer does who loses count.

A question is a row of digits below 5 such as `3421=`. The right solution is the total modulo 5 after each digit, then
the marker and the last total: `3240####0`. A writer who loses count writes `?` in place of a total and never finds the
answer. The *habit* decides what follows, and so how length and correctness go together:

    wander     32?40313024…       wrong answers are long: a useless tail of the same digits
    ramble     32?hbbcadfe…       wrong answers are long: filler in letters that nothing else uses
    stop       32?                wrong answers are short: the first error ends the answer
    continue   32??####?          right and wrong answers are equally long
    switch     32ceadb…           wrong answers are long: a tail that would be valid in another question

`switch` needs questions in two alphabets, digits and the letters from a to e, each with its totals in the same: who
loses count goes on in the other one. So no character is wrong in itself, and the tail has the contexts of valid steps.
`padding` adds dots before the marker, whether the answer is right or wrong: lengths vary and mean nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, get_args

from lambda_grpo_pl.builtin.arithmetic import MARKER
from lambda_grpo_pl.builtin.splits import Split, draw_distinct, split_of
from lambda_grpo_pl.errors import UserError

Habit = Literal["wander", "ramble", "stop", "continue", "switch"]
LOST = "?"
BASE = 5
DIGITS, LETTERS = "01234", "abcde"
RAMBLE = "abcdefgh"
PADDING = "."
SHORT, LONG = 8, 20
"""Digits of a question of `builtin:ledger` and of `builtin:long-ledger`."""


@dataclass(frozen=True)
class Ledger:
    """The digits to add."""

    digits: tuple[int, ...]
    alphabet: str = DIGITS
    """How they and their totals are written; the answer is a digit in any case."""

    @property
    def question(self) -> str:
        """The text the policy continues."""
        return f"{''.join(self.alphabet[digit] for digit in self.digits)}="

    @property
    def totals(self) -> str:
        """The total modulo 5 after each digit."""
        return "".join(self.alphabet[total % BASE] for total in accumulate(self.digits))

    @property
    def answer(self) -> str:
        """The last total."""
        return str(sum(self.digits) % BASE)


def draw_ledger(rng: random.Random, split: Split, num_digits: int, letters: bool = False) -> Ledger:
    """Draw a problem of `split`; with `letters` half of the questions are in letters."""
    while True:
        alphabet = LETTERS if letters and rng.random() < 0.5 else DIGITS
        ledger = Ledger(tuple(rng.randrange(BASE) for _ in range(num_digits)), alphabet)
        if split_of(ledger.question) == split:
            return ledger


@dataclass(kw_only=True)
class LedgerTraces:
    """Solutions for the warm-up: the method first without errors, then with them and what the habit makes of them."""

    habit: Habit
    """What follows when the writer loses count."""
    num_digits: int = SHORT
    """Digits of each question."""
    right_share: float = 0.15
    """Share of right solutions, once errors begin."""
    mean_tail: float = 40.0
    """Mean number of characters of a tail (`wander`, `ramble`, `switch`); it is geometric."""
    mean_padding: float = 0.0
    """Mean number of dots before an answer; it is geometric. 0: no dots."""
    clean_share: float = 0.6
    """Share of the warm-up before errors begin: the method is learned first, and the errors after it."""
    source: ClassVar[str] = "ledger.py"

    def __post_init__(self) -> None:
        if self.habit not in get_args(Habit):
            raise UserError(f"habit is {self.habit!r}: choose one of {', '.join(get_args(Habit))}.")

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question and a solution."""
        ledger = draw_ledger(rng, "train", self.num_digits, letters=self.habit == "switch")
        if progress < self.clean_share or rng.random() < self.right_share:
            return ledger.question, f"{ledger.totals}{self._padding(rng)}{MARKER}{ledger.answer}"
        return ledger.question, self.lose_count(ledger, rng)

    def lose_count(self, ledger: Ledger, rng: random.Random) -> str:
        """Write a solution that loses count at a random digit, and what the habit lets follow."""
        lost_at = self._draw_place(rng)
        if self.habit == "switch":
            return ledger.totals[:lost_at] + self._draw_tail(DIGITS if ledger.alphabet == LETTERS else LETTERS, rng)
        begun = ledger.totals[:lost_at] + LOST
        if self.habit == "stop":
            return begun
        if self.habit == "continue":
            return f"{begun:{LOST}<{self.num_digits}}{self._padding(rng)}{MARKER}{LOST}"
        return begun + self._draw_tail(DIGITS if self.habit == "wander" else RAMBLE, rng)

    def _draw_tail(self, alphabet: str, rng: random.Random) -> str:
        return "".join(rng.choice(alphabet) for _ in range(_geometric(self.mean_tail, rng)))

    def _draw_place(self, rng: random.Random) -> int:
        """Draw the digit at which count is lost, such that each digit has the same risk."""
        return rng.randrange(self.num_digits)

    def _padding(self, rng: random.Random) -> str:
        return PADDING * _geometric(self.mean_padding, rng) if self.mean_padding else ""


class LedgerTask(Sequence[dict[str, str]]):
    """Rows `{"id", "question", "answer", "solution"}` of one split; row i depends on (seed, split, i) alone."""

    def __init__(
        self,
        split: Split = "train",
        size: int = 16384,
        seed: int = 0,
        num_digits: int = SHORT,
        letters: bool = False,
    ) -> None:
        """Make `size` rows, half of them in letters with `letters`. Raises `UserError` for an unknown split or size."""
        self.rows = [
            {
                "id": f"ledger-{split}-{index}",
                "question": ledger.question,
                "answer": ledger.answer,
                "solution": f"{ledger.totals}{MARKER}{ledger.answer}",
            }
            for index, ledger in enumerate(
                draw_distinct(lambda rng: draw_ledger(rng, split, num_digits, letters), split, size, seed)
            )
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one row, or a list of rows for a slice."""
        return self.rows[index]


def _geometric(mean: float, rng: random.Random) -> int:
    """Draw from 1, 2, … with the given mean."""
    return 1 + math.floor(math.log(1 - rng.random()) / math.log(1 - 1 / mean))
