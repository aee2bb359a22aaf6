r"""Evaluate everyday LaTeX at one point, to settle answers in microseconds instead of milliseconds of parsing.

Two expressions with different floating-point values at a generic point are not equal. Two rational expressions with
equal values modulo a large prime are (Schwartz 1980, Zippel 1979: wrong with probability degree/2^61). Everything
between, and every notation outside the small grammar below, is left to `algebra`. Numbers keep their size, so nothing
can explode.

    sum = term {("+" | "-") term}      term = power {["*" | "/" | \cdot | \times] power}      power = atom ["^" power]
    atom = number | letter | \pi | (sum) | {sum} | \frac{sum}{sum} | \sqrt[number]{sum} | -power
"""

from __future__ import annotations

import cmath
import re
import zlib
from fractions import Fraction
from typing import Any, NamedTuple

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\w|\{\w+\}))?|[-+*/^(){}\[\]])\s*")
_OUTSIDE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|or)(?![A-Za-z])|\d\s*\\frac\s*\{\d+\}|\d \d|\d_")
_MAX_TOKENS = 200
_ENDS_TERM = {"+", "-", ")", "}", "]", ""}
_LETTERS = {"pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "omega", "phi", "rho", "sigma", "tau"}
_CONSTANTS = {"\\pi": complex(cmath.pi), "e": complex(cmath.e), "i": 1j}


_FUNCTION_CALL = re.compile(r"[fghFGHPT](?:_\w)?\s*\(")
_PRIME = 2**61 - 1


class _OutsideGrammar(Exception):
    """The text is none of ours to evaluate."""


def differ(gold: str, answer: str) -> bool:
    """Two normalised answers are certainly not equal. False says nothing.

    The tolerance is relative and wide, 10⁻⁶ or 10⁻⁴ with a decimal: closer calls are for exact arithmetic.
    """
    values = evaluate(gold), evaluate(answer)
    if values[0] is None or values[1] is None:
        return False
    tolerance = 1e-4 if "." in gold + answer else 1e-6
    return abs(values[0] - values[1]) > tolerance * max(abs(values[0]), abs(values[1]))


def identical(gold: str, answer: str) -> bool:
    """Two normalised answers are certainly the same rational expression. False says nothing.

    Constants such as π and i count as variables here: what holds for a variable holds for them.
    """
    if _FUNCTION_CALL.search(gold) or _FUNCTION_CALL.search(answer):
        return False
    values = _read(gold, exact=True), _read(answer, exact=True)
    return values[0] is not None and values[0] == values[1]


def evaluate(text: str) -> complex | None:
    """The value where each variable has its fixed generic value in (1, 2); None outside the grammar."""
    value = _read(text, exact=False)
    return value if isinstance(value, complex) and cmath.isfinite(value) else None


def _read(text: str, exact: bool) -> Value | None:
    if _OUTSIDE.search(text):
        return None
    tokens = _TOKEN.findall(text)
    if len(tokens) > _MAX_TOKENS or "".join(tokens) != "".join(text.split()):
        return None
    try:
        reader = _Reader(tokens, exact)
        value = reader.sum()
        reader.take("")
    except (_OutsideGrammar, OverflowError, ZeroDivisionError):
        return None
    return value


class Residue(NamedTuple):
    """An integer modulo 2^61 − 1, with the arithmetic of a field."""

    value: int

    def __add__(self, other: Any) -> Residue:
        return Residue((self.value + other.value) % _PRIME)

    def __sub__(self, other: Any) -> Residue:
        return Residue((self.value - other.value) % _PRIME)

    def __mul__(self, other: Any) -> Residue:
        return Residue(self.value * other.value % _PRIME)

    def __truediv__(self, other: Any) -> Residue:
        return self * Residue(other.value) ** -1

    def __pow__(self, exponent: complex) -> Residue:
        whole = round(exponent.real)
        if exponent != whole or abs(whole) > 1000:
            raise _OutsideGrammar
        if whole < 0 and self.value == 0:
            raise ZeroDivisionError
        return Residue(pow(self.value, whole, _PRIME))


Value = Any
"""complex, or Residue when exact."""


class _Reader:
    """Recursive descent over the tokens; the end reads as ""."""

    def __init__(self, tokens: list[str], exact: bool) -> None:
        self.tokens, self.position, self.exact = [*tokens, ""], 0, exact

    @property
    def next(self) -> str:
        return self.tokens[self.position]

    def take(self, token: str | None = None) -> str:
        """Advance over the next token, which must be `token` if one is given."""
        found = self.next
        if found != token and (token is not None or not found):
            raise _OutsideGrammar
        self.position += bool(found)
        return found

    def sum(self) -> Value:
        value = self.term()
        while self.next in ("+", "-"):
            value = value + self.term() if self.take() == "+" else value - self.term()
        return value

    def term(self) -> Value:
        value = self.power()
        while self.next not in _ENDS_TERM:
            if self.next == "/":
                self.take()
                value /= self.power()
            else:
                if self.next in ("*", "\\cdot", "\\times"):
                    self.take()
                value *= self.power()
        return value

    def power(self) -> Value:
        if self.next in ("-", "+"):
            # 0 − x and not −x: a negative zero would put √−1 on the other side of its branch cut.
            return self._number("0") - self.power() if self.take() == "-" else self.power()
        value = self.atom()
        if self.next != "^":
            return value
        self.take()
        exact, self.exact = self.exact, False
        exponent = self.power() if self.next in ("{", "-") else self.atom()
        self.exact = exact
        return value**exponent

    def atom(self) -> Value:
        token = self.take()
        if token in ("(", "{"):
            value = self.sum()
            self.take(")" if token == "(" else "}")
            return value
        if token[0].isdigit() or token[0] == ".":
            return self._number(token)
        if token == "\\frac":
            return self._braced() / self._braced()
        if token == "\\sqrt":
            return self._root()
        return _named(token, self.exact)

    def _number(self, token: str) -> Value:
        if not self.exact:
            return complex(float(token))
        number = Fraction(token.rstrip("."))
        return Residue(number.numerator % _PRIME) / Residue(number.denominator)

    def _root(self) -> Value:
        if self.exact:
            raise _OutsideGrammar
        degree = 2.0 + 0j
        if self.next == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        radicand = self._braced()
        if degree != 2 and (radicand.imag or radicand.real < 0):
            raise _OutsideGrammar  # Is a cube root of -8 real? Not decided here.
        return complex(radicand ** (1 / degree))

    def _braced(self) -> Value:
        if self.next != "{":
            raise _OutsideGrammar
        return self.atom()


def _named(token: str, exact: bool) -> Value:
    if not token[0].isalpha() and token.removeprefix("\\") not in _LETTERS:
        raise _OutsideGrammar
    if exact:
        return Residue(_spread(token))
    constant = _CONSTANTS.get(token)
    return complex(1 + _spread(token) / _PRIME) if constant is None else constant


def _spread(name: str) -> int:
    """A separate value for each name; case does not tell variables apart, as in math-verify."""
    return zlib.crc32(re.sub(r"[{}]", "", name).lower().encode()) * 0x9E3779B97F4A7C15 % _PRIME
