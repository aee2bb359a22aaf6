r"""One spelling for answers that mean the same: Unicode, spacing, separators, units, text commands.

Works on an extracted answer (short), is pure string work, and never looks at the gold: both sides go through it alike.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": r" \times ", "·": r" \cdot ", "⋅": r" \cdot ",
    "∙": r" \cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r" \le ", "≥": r" \ge ", "≠": r" \ne ", "⩽": r" \le ",
    "⩾": r" \ge ", "π": r"\pi ", "∞": r"\infty ", "∪": r" \cup ", "∩": r" \cap ", "∈": r" \in ", "∅": r"\emptyset ",
    "±": r"\pm ", "°": r"^\circ ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
    "∖": r" \setminus ", "ℝ": r"\mathbb{R}", "“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "≈": r" \approx ",
}  # fmt: skip
_FRACTIONS = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm|bf)"
_TEXT_GROUP = re.compile(_TEXT + r"\*?\s*\{([^{}]*)\}")
_JOINING_TEXT = re.compile(_TEXT + r"\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}")
_PERCENT = re.compile(r"\s*(?:\\?%|" + _TEXT + r"\s*\{\s*(?:percent|%|\\%|pct)\s*\}|\b(?:percent|pct)\b)")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?"
_UNIT_TEXT = re.compile(r"(?<=[\w})\]])\s*(?:\\[,;: ]|~)?\s*" + _TEXT + r"\s*\{[^{}]*\}" + _POWER + r"\s*$")
_UNIT = (
    "km/h|m/s|kmph|mph|kph|cm|mm|km|nm|kg|mg|lbs|lb|oz|ft|yd|mi|ms|min|hrs|hr|mL|ml|kJ|kW|Hz|Pa|mol|MeV|eV|rad|deg"
    "|units|unit|sq|in|pm|am|USD|EUR|RMB|cents"
)
_BARE_UNIT = re.compile(rf"(?<=[\d}}])\s*(?:{_UNIT}){_POWER}\.?$|(?<=[\d}}])\s+[mgshLJNWVAKCF]{_POWER}$")
_WORD = rf"\s+(?!(?:and|or)\b)(?=[a-z/^]*[aeiou])[A-Za-z]{{3,}}{_POWER}\.?"
_UNIT_WORDS = re.compile(
    rf"(?<=[\d}})])(?:{_WORD})+(?:\s*(?:per|of|/)\s*[A-Za-z]+)*$|(?<=[\d}}])\s+(?:square|cubic|sq|cu)\.?\s+[A-Za-z]+$"
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree\b|\\circ\b)\s*(?:[CF]\b)?")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|(?:\bUSD|\bRs\.?|\bEUR)\s*(?=\d)")
_THOUSANDS_MARK = re.compile(r"\{,\}|,\\!\s*|,\{\}")
_THOUSANDS_SPACE = re.compile(r"(?<=\d)(?:\\[,;: ]|~|\u2009|\u202f)(?=\d{3}(?!\d))")
_E_NOTATION = re.compile(r"(?<![\w.}])(\d+(?:\.\d*)?|\.\d+)[eE]\{?([+-]?\d+)\}?(?![\w.])")
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:!> ]|quad\b|qquad\b|displaystyle\b|textstyle\b|limits\b)|~")
_TOP = re.compile(r"\\frac\s*(\\[A-Za-z]+|\w)")
_BOTTOM = re.compile(r"\\frac\s*(\{[^{}]*\})\s*(\\[A-Za-z]+|\w)")
_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?)\s*[)}]?"
)
_FREE_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_MAGNITUDE = re.compile(
    r"(?<=\d)\s*(?:\\ )?(" + _TEXT + r"\s*\{)?\s*(thousand|million|billion|trillion)s?\b", re.IGNORECASE
)
_EXPONENTS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_EMPTY_SET = re.compile(r"\\varnothing\b|\\\{\s*\\\}|\{\s*\}$")
_EXCLAMATION = re.compile(r"(?<=[^\W\d_]{2})!$")
_SINGLE_BRACE = re.compile(r"([_^])\s*\{\s*(\w)\s*\}")


@lru_cache(maxsize=1 << 14)
def normalize(answer: str) -> str:
    """Return `answer` in the one spelling that comparison works on; "" if nothing is left."""
    text = _ascii(answer).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = text.replace("\\left", "").replace("\\right", "") if "\\leftarrow" not in text else text
    text = _strip_delimiters(text)
    text = _THOUSANDS_MARK.sub(",", text)
    text = _THOUSANDS_SPACE.sub("", text)
    text = _PERCENT.sub(r"\\%", _JOINING_TEXT.sub(" , ", text)) if "," in text else _PERCENT.sub(r"\\%", text)
    text = _CURRENCY.sub("", text)
    text = _SPACING.sub(" ", text)
    text = _MAGNITUDE.sub(_power_of_ten, text)
    text = _without_units(text.strip())
    text = _EMPTY_SET.sub(r"\\emptyset", text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    text = _BOTTOM.sub(r"\\frac\1{\2}", _TOP.sub(r"\\frac{\1}", text))
    text = _TRIG_DEGREES.sub(r"\1(\\frac{\2\\pi}{180})", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = _SINGLE_BRACE.sub(r"\1\2", text)
    return re.sub(r"\s+", " ", _strip_delimiters(text))


def tight(normalized: str) -> str:
    """Without the spaces that mean nothing: those between two digits stay, `1 2` is not 12."""
    return _FREE_SPACE.sub("", normalized)


def plain_text(answer: str) -> str:
    r"""The answer as words: text commands opened, case, spacing, quotes and outer punctuation ignored."""
    text = _TEXT_GROUP.sub(r"\1", _ascii(answer))
    words = re.sub(r"\s+", " ", _SPACING.sub(" ", text)).strip(" .,;:\"'$*").casefold()
    return _EXCLAMATION.sub("", words)


def _ascii(text: str) -> str:
    """Unicode mathematics as LaTeX, compatibility characters (full width and the like) as ASCII."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda run: "^{" + run[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀-₉]+", lambda run: "_{" + run[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"√\s*(?:\(([^()]*)\)|(\w+))", lambda root: r"\sqrt{" + (root[1] or root[2]) + "}", text)
    for character, value in _FRACTIONS.items():
        numerator, denominator = value.split("/")
        text = text.replace(character, rf"\frac{{{numerator}}}{{{denominator}}}")
    for character, command in _SYMBOLS.items():
        text = text.replace(character, command)
    return unicodedata.normalize("NFKC", text)


def _power_of_ten(magnitude: re.Match[str]) -> str:
    """Spell "million" as a power of ten, in front of the rest of its text command if it stands in one."""
    return rf" \times 10^{{{_EXPONENTS[magnitude[2].lower()]}}}" + (magnitude[1] or "")


def _strip_delimiters(text: str) -> str:
    """Strip space, formula delimiters, a box around the whole and closing punctuation."""
    while True:
        before = text
        text = text.strip().rstrip(".,;:").strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                inner = text[len(opening) : -len(closing)]
                text = text if opening in inner else inner
        box = re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", text, re.DOTALL)
        text = box[1] if box else text
        if text == before:
            return text


def _without_units(text: str) -> str:
    """Drop a unit behind a value; `\\text{…}` that is the whole answer, and "and"/"or", stay."""
    if not _JOINING_TEXT.search(text):
        text = _UNIT_TEXT.sub("", text)
    text = _UNIT_WORDS.sub("", _BARE_UNIT.sub("", text))
    if not re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)", text):
        text = _DEGREES.sub("", text)
    whole = _TEXT_GROUP.fullmatch(text)
    return whole[1] if whole else text
