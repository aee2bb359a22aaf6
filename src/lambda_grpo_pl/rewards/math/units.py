r"""Units behind a value: strip them, and tell `5 km` from `5 m`."""

from __future__ import annotations

import re

TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm|bf)"
TEXT_GROUP = re.compile(TEXT + r"\*?\s*\{([^{}]*)\}")
JOINING_TEXT = re.compile(TEXT + r"\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}")

_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?"
_GROUP = TEXT + r"\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)?\}" + _POWER
_UNIT_TEXT = re.compile(
    rf"(?<=[\w}})\]])\s*(?:{_GROUP}(?:\s*(?:/|\\cdot|\\times)?\s*{_GROUP})*|\\frac\s*\{{\s*{_GROUP}\s*\}}\s*\{{\s*{_GROUP}\s*\}})\s*$"
)
_UNIT = (
    "km/h|m/s|kmph|mph|kph|cm|mm|km|nm|kg|mg|lbs|lb|oz|ft|yd|mi|ms|min|hrs|hr|mL|ml|kJ|kW|Hz|Pa|mol|MeV|eV|rad|deg"
    "|units|unit|sq|in|pm|am|USD|EUR|RMB|cents"
)
_BARE_UNIT = re.compile(rf"(?<=[\d}}])\s*(?:{_UNIT}){_POWER}\.?$|(?<=[\d}}])\s+[mgshLJNWVAKCF]{_POWER}$")
_WORD = rf"\s+(?!(?:and|or)\b)(?=[a-z/^]*[aeiou])[A-Za-z]{{3,}}{_POWER}\.?"
_UNIT_WORDS = re.compile(
    rf"(?<=[\d}}])(?:{_WORD})+(?:\s*(?:per|of|/)\s*[A-Za-z]+)*$|(?<=[\d}}])\s+(?:square|cubic|sq|cu)\.?\s+[A-Za-z]+$"
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree\b|\\circ\b)\s*(?:[CF]\b)?")

_QUANTITIES = {
    "length": "mm=millimeter cm=centimeter dm=decimeter m=meter km=kilometer in=inch=inches ft=foot=feet yd=yard "
    "mi=mile",
    "time": "ms=millisecond s=sec=second min=minute h=hr=hrs=hour day week month year",
    "mass": "mg=milligram g=gram kg=kilogram oz=ounce lb=lbs=pound t=ton=tonne",
    "volume": "ml=milliliter l=liter gallon quart pint",
    "money": "cent dollar=usd euro=eur yuan=rmb",
}
_UNITS = {
    name: (quantity, names.split("=")[0])
    for quantity, units in _QUANTITIES.items()
    for names in units.split()
    for name in names.split("=")
}
"""Name of a unit → what it measures, and its canonical name."""

_FACTOR = re.compile(r"(/|\bper\b)|([A-Za-z]+)\s*(?:\^\s*\{?\s*(-?\d+)\s*\}?)?")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)?)\}\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)?)\}")


def strip_units(text: str) -> str:
    """Return `text` without the unit behind its value; a `\\text{…}` that is the whole answer, and "and"/"or", stay."""
    whole = TEXT_GROUP.fullmatch(text)
    text = whole[1].strip() if whole else text
    if not JOINING_TEXT.search(text):
        text = _UNIT_TEXT.sub("", text)
    text = _UNIT_WORDS.sub("", _BARE_UNIT.sub("", text))
    return text if re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)", text) else _DEGREES.sub("", text)


def units_conflict(gold: str, answer: str) -> bool:
    """Both carry a unit of the same quantity, and not the same one: 5 km and 5 m, $5 and 5 cents."""
    units = _read_unit(gold), _read_unit(answer)
    if units[0] is None or units[1] is None or units[0] == units[1]:
        return False
    return _dimensions(units[0]) == _dimensions(units[1])


def _dimensions(unit: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted((_UNITS[name][0], power) for name, power in unit)


def _read_unit(text: str) -> list[tuple[str, int]] | None:
    """The unit as factors (canonical name, power), sorted; None without a unit or with one outside the table."""
    whole = TEXT_GROUP.fullmatch(text)
    text = whole[1].strip() if whole else text
    value = strip_units(text)
    tail = text[len(value) :] if text.startswith(value) else ""
    if not tail:
        return [("dollar", 1)] if re.match(r"\\?\$\s*\d", text) else None
    tail = _FRACTION.sub(r"\1/\2", tail)
    factors: dict[str, int] = {}
    sign, pending = 1, 1
    for divider, word, power in _FACTOR.findall(TEXT_GROUP.sub(r" \1 ", tail)):
        if divider:
            sign = -1
        elif word in ("square", "sq", "cubic", "cu"):
            pending = 2 if word.startswith("s") else 3
        elif word not in ("cdot", "times"):
            unit = _find_unit(word)
            if unit is None:
                return None
            factors[unit] = factors.get(unit, 0) + sign * pending * int(power or 1)
            pending = 1
    return sorted(factors.items()) or None


def _find_unit(word: str) -> str | None:
    word = word.lower().replace("metre", "meter").replace("litre", "liter")
    found = _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))
    return found and found[1]
