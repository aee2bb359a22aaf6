r"""Are two normalized answers equal? Structure is compared here, expressions in `algebra`; runs in a worker."""

from __future__ import annotations

import re

from lambda_grpo_pl.rewards.math.algebra import same_expression
from lambda_grpo_pl.rewards.math.quantities import read_quantity, same_quantity
from lambda_grpo_pl.rewards.math.structure import (
    RELATION,
    is_indexed,
    measure_depth,
    order_system,
    read_alternatives,
    read_assignment,
    read_brackets,
    read_elements,
    read_family,
    read_system,
    read_vector,
    strip_point_name,
)

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
    if is_explosive(answer) or _JUXTAPOSED.search(answer):
        return False
    for compare in (_bases, _families, _systems, _alternatives, _assignments, _unions, _lists, _brackets):
        settled = compare(gold, answer)
        if settled is not None:
            return settled
    return same_expression(gold, answer)


def _exact_side(answer: str) -> str:
    r"""Of `22/7 \approx 3.14` the value is what was approximated, unless that is a name."""
    left, approximately, _ = answer.partition("\\approx")
    return left.strip() if approximately and any(map(str.isdigit, left)) and "=" not in left else answer


def is_explosive(text: str) -> bool:
    """Text that no gold needs and that costs algebra minutes: towers, huge factorials, deep nesting."""
    if _LONG_NUMBER.search(text) or text.count("{") > 400 or measure_depth(text) > _MAX_DEPTH:
        return True
    if re.search(r"[-+]{20}", text):
        return True
    if any(len(number) > 4 for number in _FACTORIAL.findall(text)) or re.search(r"\^[^!]*\)\s*!", text):
        return True
    return bool(re.search(r"(?:\^|\*\*)\s*\{?\s*\(?-?\d+\)?\s*(?:\^|\*\*)|(?:\^|\*\*)\s*\{?\s*\(?-?\d{5,}", text))


def _bases(gold: str, answer: str) -> bool | None:
    """204_5 equals only itself; an answer that leaves the base out is read in the gold's."""
    sides = [_BASED.fullmatch(text.replace(" ", "")) for text in (gold, answer)]
    if not sides[0] or not sides[1]:
        return None
    return sides[0][1].lstrip("0") == sides[1][1].lstrip("0") and sides[1][2] in (None, sides[0][2])


def _families(gold: str, answer: str) -> bool | None:
    r"""`k\pi, k \in \mathbb{Z}` and `n\pi, n \in \mathbb{Z}`: the name of the parameter does not matter."""
    families = read_family(gold), read_family(answer)
    if families[0] is None or families[1] is None:
        return None
    return families[0][1] == families[1][1] and equivalent(families[0][0], families[1][0])


def _systems(gold: str, answer: str) -> bool | None:
    """`x = 3, y = -2` answers `(3, -2)` and the reverse; two systems agree name by name."""
    systems = read_system(gold), read_system(answer)
    if systems[0] is not None and systems[1] is not None:
        if set(systems[0]) != set(systems[1]):
            return None
        return all(equivalent(value, systems[1][name]) for name, value in systems[0].items())
    system, other = (systems[0], answer) if systems[0] is not None else (systems[1], gold)
    if system is None:
        return None
    brackets = read_brackets(other)
    values = brackets[1] if brackets and brackets[0] == "()" else read_elements(other)
    if other.startswith("\\{") or is_indexed(system) or len(values) != len(system):
        return None
    ordered = order_system(system)
    return _in_order(ordered, values) if system is systems[0] else _in_order(values, ordered)


def _alternatives(gold: str, answer: str) -> bool | None:
    """`x = 4 or x = -1` are the values 4 and -1 of one name, and answer `-1, 4` or `x \\in \\{-1, 4\\}`."""
    several = read_alternatives(gold), read_alternatives(answer)
    if several[0] is None and several[1] is None:
        return None
    sides = [found or read_assignment(text) for found, text in zip(several, (gold, answer), strict=True)]
    if len({name for name, _ in sides if name is not None}) > 1:
        return None
    return _lists(sides[0][1], sides[1][1])


def _assignments(gold: str, answer: str) -> bool | None:
    """`x = 5` answers `5` and the reverse, also through a chain `x = 2 + 3 = 5`; `x = 5` never answers `y = 5`."""
    gold_name, gold_value = read_assignment(gold)
    answer_name, answer_value = read_assignment(answer)
    if gold_name is None and answer_name is None:
        return None
    if gold_name and answer_name:
        same = re.sub(r"\s", "", gold_name) == re.sub(r"\s", "", answer_name)
        return equivalent(gold_value, answer_value) if same else None
    if "=" in (gold if gold_name is None else answer):
        return None
    return equivalent(gold_value, answer_value)


def _unions(gold: str, answer: str) -> bool | None:
    """Unions of intervals compared part by part, in any order; overlapping parts are left to the leaf."""
    parts, others = gold.split("\\cup"), answer.split("\\cup")
    if len(parts) != len(others) or len(parts) == 1:
        return None
    return _matched([part.strip() for part in parts], [part.strip() for part in others]) or None


def _lists(gold: str, answer: str) -> bool | None:
    r"""Sets and bare lists, unordered. One value never equals several, wherever it stands in the list."""
    parts, others = read_elements(gold), read_elements(answer)
    if len(parts) == 1 and len(others) == 1:
        return None
    if len(parts) != len(others):
        return None if _ambiguous(gold, answer) else False
    return _matched(parts, others)


def _ambiguous(gold: str, answer: str) -> bool:
    """Counts may differ where a relation, a union or a set's own notation hides elements."""
    return any(
        "\\cup" in text or RELATION.search(text) or "\\mid" in text or "\\infty" in text for text in (gold, answer)
    )


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
    """Tuples and intervals: same brackets, same elements in the same order. A row or column vector is a tuple."""
    gold_vector, answer_vector = read_vector(gold), read_vector(answer)
    if gold_vector and answer_vector:
        return None
    gold_side = ("()", gold_vector) if gold_vector else read_brackets(strip_point_name(gold))
    answer_side = ("()", answer_vector) if answer_vector else read_brackets(strip_point_name(answer))
    if gold_side is None or answer_side is None or max(len(gold_side[1]), len(answer_side[1])) < 2:
        return None
    if gold_side != read_brackets(gold) and answer_side != read_brackets(answer) and not (gold_vector or answer_vector):
        return None  # two named points: P(3,4) is not Q(3,4)
    return gold_side[0] == answer_side[0] and _in_order(gold_side[1], answer_side[1])


def _in_order(golds: list[str], answers: list[str]) -> bool:
    return len(golds) == len(answers) and all(map(equivalent, golds, answers))
