r"""Plain numbers read exactly, without computer algebra: 1,080 · 3/4 · -\frac{3}{4} · 2\frac58 · 4.5 \times 10^{33}."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_MAX_DIGITS = 400
_MAX_EXPONENT = 400
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(
    rf"(?:({_NUMBER})\s*(?:\\times|\\cdot|\*)\s*)?10\s*(?:\^|\*\*)\s*(?:\{{\s*([+-]?\s*\d+)\s*\}}|\(([+-]?\d+)\)|(\d+))"
)
_FRAC = re.compile(r"(\d*)\s*\\frac\s*(?:\{\s*([+-]?\s*\d+)\s*\}|(\d))\s*(?:\{\s*([+-]?\s*\d+)\s*\}|(\d))")
_SLASHED = re.compile(rf"(?:(\d+)\s+)?({_NUMBER})\s*/\s*([+-]?{_NUMBER})")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_MODULO = re.compile(r"(\d+)\s*\\(?:bmod|mod)\s*(\d+)")
PLACES = Fraction(1, 2_000_000)
"""Half a unit of the sixth decimal place: how far a decimal may be from the gold."""


class Quantity(NamedTuple):
    """A rational number and how it was written."""

    value: Fraction
    rounded: bool
    """Written with a decimal point, so equal to six places is equal."""
    percent: bool = False
    """Followed by a percent sign, which is not part of `value`."""


def read_quantity(text: str) -> Quantity | None:
    """Read a normalised answer that is one plain number; None for everything else and for absurd sizes."""
    text = text.strip()
    percent = text.endswith("\\%")
    text = text.removesuffix("\\%").strip()
    if not text or len(text) > _MAX_DIGITS:
        return None
    sign = 1
    while text[:1] in "+-" and text:
        sign, text = (-sign if text[0] == "-" else sign), text[1:].strip()
    while text.startswith("(") and text.endswith(")") and "(" not in text[1:-1]:
        return _signed(read_quantity(text[1:-1]), sign, percent)
    read = _unsigned(text)
    return None if read is None else Quantity(sign * read[0], read[1], percent)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Equal exactly, or to six decimal places when one of them is written as a decimal.

    Below 10⁻³ six places say little, so there the difference must be under a millionth of the gold. A percent sign on
    one side only is ignored: 28% answers 28 (graders disagree here, see docs/verifier.md).
    """
    if gold.value == answer.value:
        return True
    if not (gold.rounded or answer.rounded):
        return False
    size = abs(gold.value)
    return abs(gold.value - answer.value) <= (PLACES if size >= Fraction(1, 1000) else size / 1_000_000)


def _signed(inner: Quantity | None, sign: int, percent: bool) -> Quantity | None:
    return inner and Quantity(sign * inner.value, inner.rounded, percent or inner.percent)


def _unsigned(text: str) -> tuple[Fraction, bool] | None:
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if re.fullmatch(_NUMBER, text):
        return Fraction(text if text[-1] != "." else text[:-1]), "." in text
    if match := _SCIENTIFIC.fullmatch(text):
        mantissa = match[1] or "1"
        exponent = int((match[2] or match[3] or match[4]).replace(" ", "")[:9])
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return Fraction(mantissa) * Fraction(10) ** exponent, False
    if match := _FRAC.fullmatch(text):
        whole, top, bottom = match[1] or "0", match[2] or match[3], match[4] or match[5]
        return _mixed(whole, top.replace(" ", ""), bottom.replace(" ", ""))
    if match := _REPEATING.fullmatch(text):
        whole, fixed, cycle = match.groups()
        nines = Fraction(int(cycle), 10 ** len(cycle) - 1) / 10 ** len(fixed)
        return Fraction(f"{whole or 0}.{fixed or 0}") + nines, False
    if match := _SLASHED.fullmatch(text):
        return _mixed(match[1] or "0", match[2], match[3])
    if (match := _MODULO.fullmatch(text)) and int(match[2]):
        return Fraction(int(match[1]) % int(match[2])), False
    return None


def _mixed(whole: str, top: str, bottom: str) -> tuple[Fraction, bool] | None:
    denominator = Fraction(bottom)
    if denominator == 0:
        return None
    return Fraction(whole) + Fraction(top) / denominator, "." in top + bottom
