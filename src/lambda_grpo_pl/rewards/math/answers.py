"""Rewards for a final answer: `math`, `numeric`, `exact`, `multiple_choice`.

The gold is `example["answer"]`, or any of `example["answers"]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.math.extraction import FINAL_ANSWER, extract_answer
from lambda_grpo_pl.rewards.math.normalization import conflicting_units, normalize, open_text, plain_text, strip_spaces
from lambda_grpo_pl.rewards.math.probe import differ, identical
from lambda_grpo_pl.rewards.math.quantities import Quantity, read_quantity, same_quantity
from lambda_grpo_pl.rewards.registry import register
from lambda_grpo_pl.rewards.verdict import NO_ANSWER, Query, Verdict, Verifier, accept_any_gold, judge_answer

MAX_ANSWER_CHARS = 2000
"""An answer this much longer than its gold is wrong unread."""

_EVERYDAY = (
    r"\frac{x^2+1}{2\pi}",
    r"3\sqrt{13}-\sqrt[3]{2}",
    r"\sin^2 t\cdot e^{-2t}",
    "x=2, y<3",
    "(-\\infty, 0.5]",
    r"5!\times 7",
)
"""What `math` parses before the first fork, so that workers start with their parser's tables built."""

_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ .'-]+[^\W\d_]+)*")
_CHOICE = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-Za-z])\)?(?:[.):]\s*\S.*)?", re.DOTALL | re.IGNORECASE)
_LABELED = re.compile(r"\(?([A-J])[.)] +(?![-+*/=] )(\S.*)", re.DOTALL)
_LONE_CHOICE = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])(?=[\s).:,*]|$)")
_SYNONYMS = {"dne": "does not exist", "no solutions": "no solution"}


@register("math", reads=FINAL_ANSWER)
class MathReward(Verifier):
    """Is the completion's final answer mathematically equal to the gold? Scores 1 or 0.

    Extraction as `extraction` documents; strings, numbers, choices and words are settled inline, everything symbolic by
    math-verify in the pool. `docs/verifier.md` lists the rules and every public case where we disagree with others.
    """

    def prepare(self, completion: str, example: Mapping[str, Any]) -> Verdict | Query:
        """Extract the answer; settle equal strings, plain numbers, letters, words and everyday expressions."""
        extracted = extract_answer(completion)
        if extracted is None:
            return NO_ANSWER
        gold_text, extracted = _strip_labels(str(example["answer"]), extracted)
        if len(extracted) > MAX_ANSWER_CHARS + len(gold_text):
            return Verdict(0.0, False, extracted[:MAX_ANSWER_CHARS])
        gold, answer = normalize(gold_text), normalize(extracted)
        if not answer:
            return NO_ANSWER
        settled = _settle(gold_text, extracted)
        return Query(gold, answer) if settled is None else judge_answer(settled, answer)

    def judge(self, gold: str, answer: str) -> bool:
        """Compare structure and leaves; see `equivalence`."""
        from lambda_grpo_pl.rewards.math.equivalence import equivalent

        return equivalent(gold, answer)

    def warm_up(self) -> None:
        """Import math-verify and let its LaTeX parser build its tables."""
        for expression in _EVERYDAY:
            self.judge(expression, "x")


@lru_cache(maxsize=1 << 14)
def _settle(gold_text: str, extracted: str) -> bool | None:
    """Decide what needs no computer algebra; None for the rest. Groups repeat their answers, hence the cache."""
    if conflicting_units(gold_text, extracted):
        return False
    gold, answer = normalize(gold_text), normalize(extracted)
    if strip_spaces(gold) == strip_spaces(answer):
        return True
    gold_number, answer_number = read_quantity(gold), read_quantity(answer)
    if gold_number is not None and answer_number is not None:
        return same_quantity(gold_number, answer_number)
    as_words = _settle_words(gold_text, extracted)
    if as_words is not None:
        return as_words
    if identical(gold, answer):
        return True
    return False if differ(gold, answer) else None


def _strip_labels(gold: str, answer: str) -> tuple[str, str]:
    """Reduce `(C) 12` on one side to what the other side states: the letter, or the value behind it."""
    sides = [open_text(gold), open_text(answer)]
    labeled = [_LABELED.fullmatch(side) for side in sides]
    if labeled[0] and labeled[1]:
        return (labeled[0][2], labeled[1][2]) if labeled[0][1] == labeled[1][1] else (labeled[0][1], labeled[1][1])
    for label, other in ((labeled[0], sides[1]), (labeled[1], sides[0])):
        if label:
            kept = label[1] if _CHOICE.fullmatch(other) else label[2]
            return (kept, answer) if label is labeled[0] else (gold, kept)
    return gold, answer


def _settle_words(gold: str, answer: str) -> bool | None:
    """Choice letters and words compare as text: case, spacing and text commands do not matter."""
    gold, answer = (_SYNONYMS.get(text, text) for text in (plain_text(gold), plain_text(answer)))
    if re.fullmatch(r"\(?[a-j]\)?", gold):
        choice = _CHOICE.fullmatch(answer)
        return True if choice and choice[1] == gold.strip("()") else None
    if gold and gold == answer:
        return True
    return False if _WORDS.fullmatch(gold) and _WORDS.fullmatch(answer) else None


@register("numeric", reads=f"{FINAL_ANSWER}; it must be a number")
class NumericReward:
    """Is the response's final answer the gold number? For arithmetic: exact, inline, no computer algebra.

    Reads integers, decimals, fractions and powers of ten; `tolerance` is an absolute difference that counts as equal.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        if tolerance < 0:
            raise UserError(f"numeric: tolerance is an absolute difference and must not be negative, got {tolerance}.")
        self.tolerance = Fraction(tolerance)

    def check_gold(self, gold: object) -> Quantity:
        """Return the gold number. Raises `UserError` for anything else."""
        number = _read_number(str(gold))
        if number is None:
            raise UserError(
                f"The reward numeric requires a number as the gold answer, but got {gold!r}: fix the row, or use the "
                "reward math or exact."
            )
        return number

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Score one response; `no_answer` without a number. Raises `UserError` for a gold that is not a number."""
        gold = self.check_gold(example["answer"])
        extracted = extract_answer(completion)
        answer = None if extracted is None else _read_number(extracted)
        if answer is None:
            return NO_ANSWER._replace(extracted=extracted and extracted[:MAX_ANSWER_CHARS])
        right = same_quantity(gold, answer) or abs(gold.value - answer.value) <= self.tolerance
        return judge_answer(right, extracted or "")


def _read_number(text: str) -> Quantity | None:
    return read_quantity(normalize(text)) if len(text) <= MAX_ANSWER_CHARS else None


@register("exact", reads=f"{FINAL_ANSWER} (with `whole`: the whole response)")
class ExactReward:
    """Is the answer the gold's text? `whole` compares the whole response instead of the extracted answer."""

    def __init__(self, whole: bool = False, ignore_case: bool = True) -> None:
        self.whole, self.ignore_case = whole, ignore_case

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Score one response; outer space and closing punctuation do not matter."""
        extracted = completion if self.whole else extract_answer(completion)
        if extracted is None:
            return NO_ANSWER
        return judge_answer(self._key(extracted) == self._key(str(example["answer"])), extracted.strip())

    def _key(self, text: str) -> str:
        text = " ".join(text.split()).rstrip(".")
        return text.casefold() if self.ignore_case else text


@register(
    "multiple_choice", reads=f"{FINAL_ANSWER}, else a short response that names a letter; it must name one choice"
)
class MultipleChoiceReward:
    """Is the chosen letter the gold's? Reads the final answer, or else a short response that names one letter.

    `letters` are the choices offered. An answer that names more than one of them is not a choice.
    """

    def __init__(self, letters: str = "ABCDE") -> None:
        self.letters = letters.upper()

    def check_gold(self, gold: object) -> str:
        """Return the gold letter. Raises `UserError` for anything else, which no response could name."""
        letter = str(gold).strip(" ().").upper()
        if len(letter) != 1 or letter not in self.letters:
            raise UserError(
                f"The reward multiple_choice requires one of the letters {self.letters} as the gold answer, but got "
                f"{gold!r}: fix the row, set the parameter letters, or use the reward exact."
            )
        return letter

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Score one response; `no_answer` unless exactly one letter is named."""
        gold = self.check_gold(example["answer"])
        extracted = extract_answer(completion)
        named = self._letter(completion if extracted is None else extracted)
        if named is None:
            return NO_ANSWER._replace(extracted=extracted and extracted[:MAX_ANSWER_CHARS])
        return judge_answer(named == gold, named)

    def _letter(self, text: str) -> str | None:
        if len(text) > MAX_ANSWER_CHARS:
            return None
        text = normalize(text).strip()
        whole = _CHOICE.fullmatch(text)
        letters = {whole[1].upper()} if whole else set(_LONE_CHOICE.findall(text))
        letters &= set(self.letters)
        return letters.pop() if len(letters) == 1 else None
