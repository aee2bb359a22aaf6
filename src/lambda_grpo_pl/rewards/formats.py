"""Rewards for the form of a response: tags, a box, JSON, a pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.math.extraction import boxed_spans
from lambda_grpo_pl.rewards.registry import register
from lambda_grpo_pl.rewards.verdict import Verdict, accept_any_gold

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@register("format_think")
def format_think(completion: str, example: Mapping[str, Any], opened: bool = False) -> bool:
    """R1's form: one `<think>…</think>` with text in it, then one non-empty `<answer>…</answer>`, and nothing around.

    `opened`: the prompt ends in `<think>`, so that the response starts inside. Source: DeepSeek-R1, 2501.12948.
    """
    text = ("<think>" if opened else "") + completion.strip()
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    starts = [text.index(tag) for tag in _TAGS]
    if starts != sorted(starts) or starts[0] != 0 or not text.endswith("</answer>"):
        return False
    thought, between, answer = (
        text[start + len(tag) : end] for start, tag, end in zip(starts, _TAGS, starts[1:], strict=False)
    )
    return bool(thought.strip() and answer.strip()) and not between.strip()


@register("format_boxed")
def format_boxed(completion: str, example: Mapping[str, Any]) -> bool:
    r"""The response has a complete, non-empty `\boxed{…}`."""
    return any(completion[start:end].strip() for start, end in boxed_spans(completion))


@register("json")
class JsonReward:
    """The response, or its last fenced block, is one JSON value.

    Scores 1 or 0; `no_answer` if nothing parses. With `keys` it must be an object that has them; with `match_answer`
    it must equal `example["answer"]`, itself JSON.
    """

    def __init__(self, keys: list[str] | None = None, match_answer: bool = False) -> None:
        self.keys = keys or []
        self.match_answer = match_answer

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Score one response."""
        blocks = completion.split("```")
        text = blocks[-2].removeprefix("json") if len(blocks) >= 3 else completion
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return Verdict(0.0, False, None, "no_answer")
        right = not self.keys or (isinstance(value, dict) and all(key in value for key in self.keys))
        if self.match_answer:
            gold = example["answer"]
            right = right and value == (json.loads(gold) if isinstance(gold, str) else gold)
        return Verdict(float(right), right, text.strip())


@register("regex")
class RegexReward:
    """The response matches a pattern: anywhere (`search`), or as a whole with `full`.

    With a group, the last match's first group is the answer and must equal `example["answer"]`. The pattern is yours
    and runs inline: set `isolated: true` for one that can backtrack without bound.
    """

    def __init__(self, pattern: str, full: bool = False) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise UserError(f"regex: the pattern {pattern!r} is not a regular expression: {error}.") from error
        self.full = full

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> Verdict:
        """Score one response."""
        whole = self.pattern.fullmatch(completion.strip())
        matches = [whole] if self.full else list(self.pattern.finditer(completion))
        match = matches[-1] if matches else None
        if match is None:
            return Verdict(0.0, False, None, "no_answer")
        if not self.pattern.groups:
            return Verdict(1.0, True, match[0])
        right = (match[1] or "").strip() == str(example["answer"]).strip()
        return Verdict(float(right), right, match[1])
