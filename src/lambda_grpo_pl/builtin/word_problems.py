"""The built-in task for a real language model: short stories whose end is a number.

A question is plain English, such as `Ana has 24 shells. She buys 17 more. Then she loses 8. How many shells does Ana
have now?`; a solution ends in the marker and the number. Three styles give the same answer, and two of them compute it:

    answer    #### 33
    steps     24 + 17 = 41
              41 - 8 = 33
              #### 33
    spoken    Ana starts with 24 shells.
              She buys 17 more: 24 + 17 = 41.
              Then she loses 8: 41 - 8 = 33.
              #### 33
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from lambda_grpo_pl.builtin.splits import Split, draw_distinct, split_of
from lambda_grpo_pl.errors import UserError

Style = Literal["answer", "steps", "spoken"]
STYLES: tuple[Style, ...] = get_args(Style)
PEOPLE = (("Ana", "She"), ("Ben", "He"), ("Chloe", "She"), ("David", "He"), ("Emma", "She"), ("Farid", "He"))
THINGS = ("apples", "books", "cards", "coins", "marbles", "pencils", "shells", "stamps")


class Event(NamedTuple):
    """What happens to the number of things."""

    operator: str
    apply: Callable[[int, int], int]
    amounts: tuple[int, int]
    """Smallest and largest amount."""
    sentence: str
    """`{}` marks the amount."""


EVENTS = (
    Event("+", int.__add__, (2, 60), "buys {} more"),
    Event("+", int.__add__, (2, 60), "finds {} more"),
    Event("-", int.__sub__, (2, 60), "loses {}"),
    Event("-", int.__sub__, (2, 60), "gives {} away"),
    Event("*", int.__mul__, (2, 4), "ends up with {} times as many"),
)
LARGEST = 400
"""Totals of the warm-up's stories stay between 1 and this, so that the difficulty is in the steps."""
GAINS = tuple(index for index, event in enumerate(EVENTS) if event.operator != "-")
NUM_ASKED, LARGEST_ASKED = 2, 100
"""A question of the task has two gains and totals up to 100. After the warm-up the model gets one loss in eight right:
in longer stories with losses, few groups would hold a right answer."""


@dataclass(frozen=True)
class Story:
    """A first number of things and what happens to them."""

    name: str
    pronoun: str
    thing: str
    start: int
    events: tuple[tuple[int, int], ...]
    """(index in `EVENTS`, amount)."""

    @property
    def sentences(self) -> list[str]:
        """One sentence an event, without its full stop."""
        return [
            f"{'Then ' + self.pronoun.lower() if place else self.pronoun} {EVENTS[kind].sentence.format(amount)}"
            for place, (kind, amount) in enumerate(self.events)
        ]

    @property
    def question(self) -> str:
        """What the user asks."""
        told = " ".join(f"{sentence}." for sentence in self.sentences)
        return f"{self.name} has {self.start} {self.thing}. {told} How many {self.thing} does {self.name} have now?"

    @property
    def totals(self) -> list[int]:
        """The number of things after each event."""
        totals, total = [], self.start
        for kind, amount in self.events:
            total = EVENTS[kind].apply(total, amount)
            totals.append(total)
        return totals

    @property
    def equations(self) -> list[str]:
        """One equation an event."""
        before = [self.start, *self.totals]
        return [
            f"{before[place]} {EVENTS[kind].operator} {amount} = {before[place + 1]}"
            for place, (kind, amount) in enumerate(self.events)
        ]

    def solve(self, style: Style) -> str:
        """Write the right solution in one of the styles."""
        answer = f"#### {self.totals[-1]}"
        if style == "answer":
            return answer
        if style == "steps":
            return "\n".join([*self.equations, answer])
        told = [f"{sentence}: {line}." for sentence, line in zip(self.sentences, self.equations, strict=True)]
        return "\n".join([f"{self.name} starts with {self.start} {self.thing}.", *told, answer])


def draw_story(
    rng: random.Random,
    split: Split,
    kinds: Sequence[int] = range(len(EVENTS)),
    max_events: int = 3,
    largest: int = LARGEST,
) -> Story:
    """Draw a story of `split` with two to `max_events` events of these kinds and totals of 1 … `largest`."""
    while True:
        events: list[tuple[int, int]] = []
        for _ in range(rng.randint(2, max_events)):
            kind = rng.choice(kinds)
            events.append((kind, rng.randint(*EVENTS[kind].amounts)))
        story = Story(*rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(5, 99), tuple(events))
        if all(0 < total <= largest for total in story.totals) and split_of(story.question) == split:
            return story


@dataclass(kw_only=True)
class WordProblemTraces:
    """Right solutions in all styles, for the warm-up; its stories are longer than the task's, its numbers larger."""

    style_weights: tuple[float, ...] = (0.45, 0.35, 0.2)
    """Share of each style: answer, steps, spoken."""
    source: ClassVar[str] = "word_problems.py"

    def __post_init__(self) -> None:
        if len(self.style_weights) != len(STYLES):
            raise UserError(f"style_weights has {len(self.style_weights)} entries: give one for each of {STYLES}.")

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question and a solution; all of the warm-up reads the same mixture."""
        story = draw_story(rng, "train")
        return story.question, story.solve(rng.choices(STYLES, self.style_weights)[0])


class WordProblemTask(Sequence[dict[str, str]]):
    """Rows `{"id", "question", "answer", "solution"}` of one split; row i depends on (seed, split, i) alone."""

    def __init__(self, split: Split = "train", size: int = 16384, seed: int = 0) -> None:
        """Make `size` rows. Raises `UserError` for an unknown split or size."""
        self.rows = [
            {
                "id": f"word-problem-{split}-{index}",
                "question": story.question,
                "answer": str(story.totals[-1]),
                "solution": story.solve("steps"),
            }
            for index, story in enumerate(
                draw_distinct(lambda rng: draw_story(rng, split, GAINS, NUM_ASKED, LARGEST_ASKED), split, size, seed)
            )
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one row, or a list of rows for a slice."""
        return self.rows[index]
