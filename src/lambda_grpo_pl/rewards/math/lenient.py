"""`math_lenient`: a second verifier in the spirit of Qwen2.5-Math's evaluation harness. Not comparable with `math`.

It forgives what `math` does not: a completion that never states its answer (the last number counts), decimals that
agree to a relative 1e-4, and a factor of 100 either way (28 for 0.28). Use it to compare with scores published
under that harness, never beside `math` in one table.

Source: QwenLM/Qwen2.5-Math, evaluation/grader.py; the rules, not its code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lambda_grpo_pl.rewards.math.answers import MAX_ANSWER_CHARS, MathReward
from lambda_grpo_pl.rewards.math.extraction import FINAL_ANSWER, MAX_CHARS, extract_answer
from lambda_grpo_pl.rewards.math.normalization import normalize
from lambda_grpo_pl.rewards.math.quantities import read_quantity
from lambda_grpo_pl.rewards.registry import register
from lambda_grpo_pl.rewards.verdict import NO_ANSWER, Query, Verdict, judge_answer

RELATIVE_TOLERANCE = Fraction(1, 10_000)

_LAST_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@register("math_lenient", reads=f"{FINAL_ANSWER}, else the last number")
class MathLenientReward(MathReward):
    """Is the final answer, or else the last number, about equal to the gold? Scores 1 or 0."""

    def prepare(self, completion: str, example: Mapping[str, Any]) -> Verdict | Query:
        """Settle with the last-number fallback and the loose numeric comparison, then as `math` does."""
        extracted = extract_answer(completion)
        if extracted is None:
            numbers = _LAST_NUMBER.findall(completion[-MAX_CHARS:])
            extracted = numbers[-1] if numbers else None
        if extracted is None or len(extracted) > MAX_ANSWER_CHARS:
            return NO_ANSWER
        gold = read_quantity(normalize(str(example["answer"])))
        answer = read_quantity(normalize(extracted))
        if gold is None or answer is None:
            return super().prepare(rf"\boxed{{{extracted}}}", example)
        close = any(
            abs(answer.value - target) <= RELATIVE_TOLERANCE * abs(target)
            for target in (gold.value, gold.value * 100, gold.value / 100)
        )
        return judge_answer(close, normalize(extracted))
