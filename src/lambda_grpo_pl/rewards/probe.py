r"""Evaluate everyday LaTeX at one point, to settle wrong answers in microseconds instead of milliseconds of parsing.

Two expressions with different values at a generic point are not equal. That is all this module concludes: equal values,
and every notation outside the small grammar below, are left to `algebra`. Floating point only, so nothing can explode.

    sum = term {("+" | "-") term}      term = power {["*" | "/" | \cdot | \times] power}      power = atom ["^" power]
    atom = number | letter | \pi | (sum) | {sum} | \frac{sum}{sum} | \sqrt[number]{sum} | -power
"""

from __future__ import annotations

import cmath
import re

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\w|\{\w+\}))?|[-+*/^(){}\[\]])\s*")
_OUTSIDE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|or)(?![A-Za-z])|\d\s*\\frac\s*\{\d+\}|\d \d|\d_")
_MAX_TOKENS = 200
_ENDS_TERM = {"+", "-", ")", "}", "]", ""}
_GREEK = {"alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "omega", "phi", "rho", "sigma", "tau"}


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


def evaluate(text: str) -> complex | None:
    """The value where each variable has a fixed generic value of its own in (1, 2); None outside the grammar."""
    if _OUTSIDE.search(text):
        return None
    tokens = _TOKEN.findall(text)
    if len(tokens) > _MAX_TOKENS or "".join(tokens) != "".join(text.split()):
        return None
    try:
        reader = _Reader(tokens)
        value = reader.sum()
        reader.take("")
    except (_OutsideGrammar, OverflowError, ZeroDivisionError):
        return None
    return value if cmath.isfinite(value) else None


class _Reader:
    """Recursive descent over the tokens; the end reads as ""."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = [*tokens, ""], 0

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

    def sum(self) -> complex:
        value = self.term()
        while self.next in ("+", "-"):
            value = value + self.term() if self.take() == "+" else value - self.term()
        return value

    def term(self) -> complex:
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

    def power(self) -> complex:
        if self.next in ("-", "+"):
            # 0 − x and not −x: a negative zero would put √−1 on the other side of its branch cut.
            return 0 - self.power() if self.take() == "-" else self.power()
        value = self.atom()
        if self.next != "^":
            return value
        self.take()
        exponent = self.power() if self.next in ("{", "-") else self.atom()
        return complex(value**exponent)

    def atom(self) -> complex:
        token = self.take()
        if token in ("(", "{"):
            value = self.sum()
            self.take(")" if token == "(" else "}")
            return value
        if token[0].isdigit() or token[0] == ".":
            return complex(float(token))
        if token == "\\frac":
            return self._braced() / self._braced()
        if token == "\\sqrt":
            return self._root()
        return _named(token)

    def _root(self) -> complex:
        degree = 2.0 + 0j
        if self.next == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        radicand = self._braced()
        if degree != 2 and (radicand.imag or radicand.real < 0):
            raise _OutsideGrammar  # Is a cube root of -8 real? Not decided here.
        return complex(radicand ** (1 / degree))

    def _braced(self) -> complex:
        if self.next != "{":
            raise _OutsideGrammar
        return self.atom()


def _named(token: str) -> complex:
    if token == "\\pi":
        return complex(cmath.pi)
    if token in ("e", "i"):
        return complex(cmath.e) if token == "e" else 1j
    name = token.removeprefix("\\")
    if not token[0].isalpha() and name not in _GREEK:
        raise _OutsideGrammar
    # Case does not tell variables apart, as in math-verify; a multiplicative hash spreads names over (1, 2).
    number = int.from_bytes(re.sub(r"[{}]", "", name).lower().encode())
    return complex(1 + (number * 0.6180339887498949) % 1)
