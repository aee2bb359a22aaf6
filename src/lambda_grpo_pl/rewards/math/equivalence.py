r"""Are two normalised answers equal? Structure is compared here, expressions in `algebra`; runs in a worker."""

from __future__ import annotations

import re

from lambda_grpo_pl.rewards.math.algebra import same_expression
from lambda_grpo_pl.rewards.math.quantities import read_quantity, same_quantity

_OPEN, _CLOSE = "([{", ")]}"
_NAME = r"(?:\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?'?(?:\s*\([\w\s,]*\))?|\([A-Za-z\s,_\d]+\))"
_ASSIGNMENT = re.compile(rf"\s*({_NAME})\s*(?:=|\\in\b|\\approx\b|:=)\s*(.+)", re.DOTALL)
_RELATION = re.compile(r"<|>|\\(?:le|ge|lt|gt|ne|leq|geq|neq|leqslant|geqslant)\b|!=")
_JUXTAPOSED = re.compile(r"(?:^|[^\^_\d.])\d+ \d")
_BASED = re.compile(r"([0-9A-F]+)(?:_\{?(\d+)\}?)?")
_FACTORIAL = re.compile(r"(\d+)\)?\s*!")
_LONG_NUMBER = re.compile(r"\d{500}")
_MAX_DEPTH = 40


def equivalent(gold: str, answer: str) -> bool:
    """Compare two normalised answers; sets unordered, tuples ordered, interval ends exact."""
    if gold == answer:
        return bool(gold)
    answer = _exact_side(answer)
    gold_number, answer_number = read_quantity(gold), read_quantity(answer)
    if gold_number and answer_number:
        return same_quantity(gold_number, answer_number)
    if explosive(answer) or _JUXTAPOSED.search(answer):
        return False
    for compare in (_bases, _assignments, _unions, _lists, _brackets):
        settled = compare(gold, answer)
        if settled is not None:
            return settled
    return same_expression(gold, answer)


def _exact_side(answer: str) -> str:
    r"""Of `22/7 \approx 3.14` the value is what was approximated, unless that is a name."""
    left, approximately, _ = answer.partition("\\approx")
    return left.strip() if approximately and any(map(str.isdigit, left)) and "=" not in left else answer


def explosive(text: str) -> bool:
    """Text that no gold needs and that costs algebra minutes: towers, huge factorials, deep nesting."""
    if _LONG_NUMBER.search(text) or text.count("{") > 400 or _depth(text) > _MAX_DEPTH or re.search(r"[-+]{20}", text):
        return True
    if any(len(number) > 4 for number in _FACTORIAL.findall(text)) or re.search(r"\^[^!]*\)\s*!", text):
        return True
    return bool(re.search(r"(?:\^|\*\*)\s*\{?\s*\(?-?\d+\)?\s*(?:\^|\*\*)|(?:\^|\*\*)\s*\{?\s*\(?-?\d{5,}", text))


def split_top(text: str, separators: str = ",;") -> list[str]:
    """Split at separators that stand in no bracket; half-open intervals such as [0,1) close with either bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth = max(0, depth - 1)
        elif depth == 0 and character in separators:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def _bases(gold: str, answer: str) -> bool | None:
    """204_5 equals only itself; an answer that leaves the base out is read in the gold's."""
    sides = [_BASED.fullmatch(text.replace(" ", "")) for text in (gold, answer)]
    if not sides[0] or not sides[1]:
        return None
    return sides[0][1].lstrip("0") == sides[1][1].lstrip("0") and sides[1][2] in (None, sides[0][2])


def _assignments(gold: str, answer: str) -> bool | None:
    """`x = 5` answers `5` and the reverse, also through a chain `x = 2 + 3 = 5`; `x = 5` never answers `y = 5`."""
    gold_name, gold_value = _assigned(gold)
    answer_name, answer_value = _assigned(answer)
    if gold_name is None and answer_name is None:
        return None
    if gold_name and answer_name:
        same = re.sub(r"\s", "", gold_name) == re.sub(r"\s", "", answer_name)
        return equivalent(gold_value, answer_value) if same else None
    if "=" in (gold if gold_name is None else answer):
        return None
    return equivalent(gold_value, answer_value)


def _assigned(text: str) -> tuple[str | None, str]:
    """The name and the last value of an assignment; (None, text) if it is none."""
    if len(split_top(text)) > 1 or _RELATION.search(text):
        return None, text
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        return None, text
    return match[1], re.split(r"=|\\approx\b", match[2])[-1].strip()


def _unions(gold: str, answer: str) -> bool | None:
    """Unions of intervals compared part by part, in any order; overlapping parts are left to the leaf."""
    parts, others = gold.split("\\cup"), answer.split("\\cup")
    if len(parts) != len(others) or len(parts) == 1:
        return None
    return _matched([part.strip() for part in parts], [part.strip() for part in others]) or None


def _lists(gold: str, answer: str) -> bool | None:
    r"""Sets and bare lists, unordered. One value never equals several, wherever it stands in the list."""
    parts, others = _elements(gold), _elements(answer)
    if len(parts) == 1 and len(others) == 1:
        return None
    if len(parts) != len(others):
        return None if _ambiguous(gold, answer) else False
    return _matched(parts, others)


def _ambiguous(gold: str, answer: str) -> bool:
    """Counts may differ where a relation, a union or a set's own notation hides elements."""
    return any(
        "\\cup" in text or _RELATION.search(text) or "\\mid" in text or "\\infty" in text for text in (gold, answer)
    )


def _elements(text: str) -> list[str]:
    text = re.sub(r"\\(?:text|mathrm)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\band\b|\bor\b", ",", text)
    inner = re.fullmatch(r"\\(?:\{|lbrace)(.*)\\(?:\}|rbrace)", text.strip(), re.DOTALL)
    if inner and "\\}" not in inner[1]:
        text = inner[1]
    parts: list[str] = []
    for part in split_top(text.replace("\\{", "{").replace("\\}", "}") if not inner else text):
        variants = [part.replace("\\pm", "+"), part.replace("\\pm", "-")] if part.count("\\pm") == 1 else [part]
        parts.extend(variants)
    return list(dict.fromkeys(parts)) or [text]


def _matched(golds: list[str], answers: list[str]) -> bool:
    """Every gold element finds its own equal among the answers."""
    if len(golds) != len(answers):
        return False
    rest = list(answers)
    for gold in golds:
        found = next((index for index, answer in enumerate(rest) if equivalent(gold, answer)), None)
        if found is None:
            return False
        rest.pop(found)
    return True


def _brackets(gold: str, answer: str) -> bool | None:
    """Tuples and intervals: same brackets, same elements in the same order."""
    sides = [re.fullmatch(r"([(\[])(.*)([)\]])", text.strip(), re.DOTALL) for text in (gold, answer)]
    if not (sides[0] and sides[1]):
        return None
    parts, others = split_top(sides[0][2]), split_top(sides[1][2])
    if not (_is_one_group(gold) and _is_one_group(answer)) or max(len(parts), len(others)) < 2:
        return None
    if len(parts) != len(others) or (sides[0][1], sides[0][3]) != (sides[1][1], sides[1][3]):
        return False
    return all(equivalent(part, other) for part, other in zip(parts, others, strict=True))


def _is_one_group(text: str) -> bool:
    """The bracket that opens the text closes at its end: true of (1,2), false of (1+x)(2,3)."""
    depth = 0
    for position, character in enumerate(text.strip()):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return position == len(text.strip()) - 1
    return False
