r"""One spelling for answers that mean the same: Unicode, spacing, separators, units, text commands.

Works on an extracted answer (short), is pure string work, and never looks at the gold: both sides go through it alike.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from lambda_grpo_pl.rewards.math.units import JOINING_TEXT, TEXT, TEXT_GROUP, strip_units, units_conflict

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

_PERCENT = re.compile(r"\s*(?:\\?%|" + TEXT + r"\s*\{\s*(?:percent|%|\\%|pct)\s*\}|\b(?:percent|pct)\b)")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|(?:\bUSD|\bRs\.?|\bEUR)\s*(?=\d)")
_THOUSANDS_MARK = re.compile(r"\{,\}|,\\!\s*|,\{\}")
_THOUSANDS_SPACE = re.compile(r"(?<=\d)(?:\\[,;:! ]|~|\u2009|\u202f)(?=\d{3}(?!\d))")
_E_NOTATION = re.compile(r"(?<![\w.}])(\d+(?:\.\d*)?|\.\d+)[eE]\{?([+-]?\d+)\}?(?![\w.])")
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:!> ]|quad\b|qquad\b|displaystyle\b|textstyle\b|limits\b)|~")
_TOP = re.compile(r"\\frac\s*(\\[A-Za-z]+|\w)")
_BOTTOM = re.compile(r"\\frac\s*(\{[^{}]*\})\s*(\\[A-Za-z]+|\w)")
_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?)\s*[)}]?"
)
_FREE_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_MAGNITUDE = re.compile(
    r"(?<=\d)\s*(?:\\ )?(" + TEXT + r"\s*\{)?\s*(thousand|million|billion|trillion)s?\b", re.IGNORECASE
)
_EXPONENTS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_EMPTY_SET = re.compile(r"\\varnothing\b|\\\{\s*\\\}|\{\s*\}$")
_EXCLAMATION = re.compile(r"(?<=[^\W\d_]{2})!$")
_SINGLE_BRACE = re.compile(r"([_^])\s*\{\s*(\w)\s*\}")
_CONSTANT = re.compile(r"\\math(?:rm|bf|it)\s*\{\s*([ei])\s*\}")
_VECTOR = re.compile(r"\\(?:vec|boldsymbol|bm|overrightarrow|mathbf)\s*\{\s*([A-Za-z]{1,2})\s*\}")
_STATEMENT = re.compile(
    r"(?:" + TEXT + r"\s*\{)?\s*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answers? ?"
    r"(?:(?:is|are)\b:?|:)\s*"
    r"(?:\}\s*)?(?=\S)",
    re.IGNORECASE,
)
_PYTHON_POWER = re.compile(r"(?<=[\w)}])\s*\*\*\s*(?:\(([^()]*)\)|(?=[\w-]))")
_PYTHON_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_PYTHON_NAME = re.compile(r"(?<![\\A-Za-z])(?:(pi)|(oo)|(exp)(?=\())(?![A-Za-z])")
_COMBINATIONS = re.compile(r"(?<![\\A-Za-z])(?:C|\\mathrm\s*\{C\})\s*_\s*(?:\{(\d+)\}|(\d))\s*\^\s*(?:\{(\d+)\}|(\d))")
_OPEN_LEFT = re.compile(r"(^|\\cup|\\in)\s*\](?=[^\[\]()]*,[^\[\]()]*[\[\])])")
_OPEN_RIGHT = re.compile(r"(?<=[(\[])([^\[\]()]*,[^\[\]()]*)\[\s*(?=$|\\cup)")
_RELATION = re.compile(r"(\\(?:geqslant|leqslant|geq|leq|ge|le|gt|lt)(?![A-Za-z])|[<>])")
_REVERSED = {">": "<", "\\gt": "<", "\\ge": "\\le", "\\geq": "\\le", "\\geqslant": "\\le"}


@lru_cache(maxsize=1 << 14)
def normalize(answer: str) -> str:
    """Return `answer` in the one spelling that comparison works on; "" if nothing is left."""
    text = strip_units(_unify_text(answer))
    text = _EMPTY_SET.sub(r"\\emptyset", text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    text = _BOTTOM.sub(r"\\frac\1{\2}", _TOP.sub(r"\\frac{\1}", text))
    text = _TRIG_DEGREES.sub(r"\1(\\frac{\2\\pi}{180})", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = _unify_notation(text)
    text = _SINGLE_BRACE.sub(r"\1\2", text)
    return re.sub(r"\s+", " ", _strip_delimiters(text))


def conflicting_units(gold: str, answer: str) -> bool:
    """Both sides carry a unit of the same quantity, and the units differ."""
    return units_conflict(_unify_text(gold, keep_currency=True), _unify_text(answer, keep_currency=True))


def _unify_text(answer: str, keep_currency: bool = False) -> str:
    """Unify everything up to the units: characters, delimiters, separators, spacing, constants, magnitudes."""
    text = re.sub(r"\s+", " ", _ascii(answer))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = text.replace("\\left", "").replace("\\right", "") if "\\leftarrow" not in text else text
    text = _strip_delimiters(text)
    statement = _STATEMENT.match(text)
    text = _strip_delimiters(text[statement.end() :]) if statement else text
    text = _VECTOR.sub(r"\1", _CONSTANT.sub(r"\1", text))
    text = _THOUSANDS_SPACE.sub("", _THOUSANDS_MARK.sub(",", text))
    text = _PERCENT.sub(r"\\%", JOINING_TEXT.sub(" , ", text)) if "," in text else _PERCENT.sub(r"\\%", text)
    text = text if keep_currency else _CURRENCY.sub("", text)
    text = re.sub(" {2,}", " ", _SPACING.sub(" ", text))
    return _MAGNITUDE.sub(_power_of_ten, text).strip()


def _unify_notation(text: str) -> str:
    r"""Python's `2**x`, `sqrt(2)`, `pi`; binomials as C_5^2; open intervals as ]0,1[; `3 > x > 1` as `1 < x < 3`."""
    text = _PYTHON_POWER.sub(lambda power: "^" if power[1] is None else "^{" + power[1] + "}", text)
    text = _PYTHON_NAME.sub(_latex_name, _PYTHON_ROOT.sub(r"\\sqrt{\1}", text))
    text = _COMBINATIONS.sub(lambda c: rf"\binom{{{c[1] or c[2]}}}{{{c[3] or c[4]}}}", text)
    text = _OPEN_RIGHT.sub(r"\1)", _OPEN_LEFT.sub(r"\1(", text))
    sides = _RELATION.split(text)
    if len(sides) >= 5 and all(relation in _REVERSED for relation in sides[1::2]) and "," not in text:
        return " ".join(_REVERSED.get(side, side.strip()) for side in reversed(sides))
    return text


def strip_spaces(normalized: str) -> str:
    """Return the text without spaces, except those between two digits: `1 2` is not 12."""
    return _FREE_SPACE.sub("", normalized)


def open_text(answer: str) -> str:
    r"""Return `(C) 12` for `\textbf{(C)}\ 12`: text commands opened, spacing commands as spaces."""
    return " ".join(_SPACING.sub(" ", TEXT_GROUP.sub(r" \1 ", _strip_delimiters(_ascii(answer)))).split())


def plain_text(answer: str) -> str:
    r"""The answer as words: text commands opened, case, spacing, quotes and outer punctuation ignored."""
    text = TEXT_GROUP.sub(r"\1", _ascii(answer))
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


def _latex_name(name: re.Match[str]) -> str:
    return "\\pi " if name[1] else "\\infty " if name[2] else "\\exp"


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
