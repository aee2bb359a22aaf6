"""Two built-in tasks from text to text, scored by overlap with a reference and not by a verifier.

`builtin:translation` is translation-like: letters of one alphabet become letters of another, and adjective and noun
change places (`aibk=` → `L Q B D`), scored by chrF. `builtin:summary` is summarization-like: of each sentence the
first word is kept, a word being a letter (`bxyz.cpqr=` → `b c`), scored by ROUGE-L.

The writers whose texts a base model learns from take wrong words, stop early, and above all do not know when to stop,
so that bad texts are long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lambda_grpo_pl.builtin.splits import Split, draw_distinct, split_of
from lambda_grpo_pl.errors import UserError

Kind = Literal["translation", "summary"]
ADJECTIVES, NOUNS = "abcdefgh", "ijklmnopqrst"
TRANSLATED = dict(zip(ADJECTIVES + NOUNS, "QDMAHTKELPBSGNCRFJOI", strict=True))
NUM_PHRASES = 3
NUM_SENTENCES, SENTENCE_LENGTH = 4, 4


@dataclass(frozen=True)
class Text:
    """A source text and what a good writer makes of it."""

    question: str
    words: tuple[str, ...]
    """Of the reference."""
    alphabet: tuple[str, ...]
    """The words that the writer may use."""

    @property
    def reference(self) -> str:
        """The reference as text."""
        return " ".join(self.words)


def draw_translation(rng: random.Random) -> Text:
    """Draw phrases of an adjective and a noun, and their translation."""
    phrases = [(rng.choice(ADJECTIVES), rng.choice(NOUNS)) for _ in range(NUM_PHRASES)]
    source = "".join(adjective + noun for adjective, noun in phrases)
    target = tuple(TRANSLATED[word] for adjective, noun in phrases for word in (noun, adjective))
    return Text(f"{source}=", target, tuple(TRANSLATED.values()))


def draw_summary(rng: random.Random) -> Text:
    """Draw sentences of different words, and their first words."""
    words = rng.sample(ADJECTIVES + NOUNS, NUM_SENTENCES * SENTENCE_LENGTH)
    sentences = ["".join(words[start : start + SENTENCE_LENGTH]) for start in range(0, len(words), SENTENCE_LENGTH)]
    return Text(f"{'.'.join(sentences)}=", tuple(sentence[0] for sentence in sentences), tuple(words))


DRAW: dict[Kind, Callable[[random.Random], Text]] = {"translation": draw_translation, "summary": draw_summary}


def draw_text(kind: Kind, rng: random.Random, split: Split) -> Text:
    """Draw a text of `split`."""
    while True:
        text = DRAW[kind](rng)
        if split_of(text.question) == split:
            return text


@dataclass(kw_only=True)
class TextTraces:
    """Texts for the warm-up: first the references, then mostly bad ones."""

    kind: Kind
    """Which task."""
    right_share: float = 0.2
    """Share of references, once errors begin."""
    error_rate: float = 0.3
    """Probability of each word to be another one."""
    stop_rate: float = 0.05
    """Probability to stop after each word."""
    repeat_share: float = 0.7
    """Share of the bad texts whose writer does not stop at the end."""
    mean_repeats: float = 6.0
    """Mean number of further words of such a text."""
    clean_share: float = 0.6
    """Share of the warm-up before errors begin."""
    source: ClassVar[str] = "texts.py"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind is {self.kind!r}: choose one of {', '.join(get_args(Kind))}.")

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question and a text."""
        text = draw_text(self.kind, rng, "train")
        if progress < self.clean_share or rng.random() < self.right_share:
            return text.question, text.reference
        return text.question, " ".join(self._write_badly(text, rng))

    def _write_badly(self, text: Text, rng: random.Random) -> list[str]:
        words: list[str] = []
        for word in text.words:
            words.append(rng.choice(text.alphabet) if rng.random() < self.error_rate else word)
            if rng.random() < self.stop_rate:
                return words
        if rng.random() < self.repeat_share:
            words += [rng.choice(text.alphabet)]
            while rng.random() < 1 - 1 / self.mean_repeats:
                words.append(rng.choice(text.alphabet))
        return words


class TextTask(Sequence[dict[str, str]]):
    """Rows `{"id", "question", "answer", "solution"}` of one split, the answer being the reference."""

    def __init__(self, split: Split = "train", size: int = 16384, seed: int = 0, kind: Kind = "translation") -> None:
        """Make `size` rows. Raises `UserError` for an unknown split or size."""
        texts = draw_distinct(lambda rng: draw_text(kind, rng, split), split, size, seed)
        self.rows = [
            {
                "id": f"{kind}-{split}-{index}",
                "question": text.question,
                "answer": text.reference,
                "solution": text.reference,
            }
            for index, text in enumerate(texts)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one row, or a list of rows for a slice."""
        return self.rows[index]
