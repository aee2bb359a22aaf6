r"""Two expressions compared by math-verify, after what it lacks: i is imaginary, tiny numbers differ.

math-verify's own time-outs are off: they raise outside the main thread and cancel a caller's SIGALRM. Its `parse` only
ever sees one boxed LaTeX expression, never free text, and never reaches its `eval`-based expression parser. Only
workers import this module.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Basic,
    Derivative,
    Expr,
    Float,
    I,
    Integral,
    Limit,
    MatrixBase,
    MatrixExpr,
    Pow,
    Product,
    Rational,
    Sum,
    real_root,
)
from sympy.core.function import AppliedUndef

# It warns at every process start that its time-outs are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_UNEVALUATED = (AppliedUndef, Derivative, Integral, Limit, Product, Sum)
# Units are gone already, and math-verify's list takes variables for units: `\\sin^2 t` would lose its t.
_SPELLING = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
_EXTRACTION = [LatexExtractionConfig(normalization_config=_SPELLING)]


def same_expression(gold: str, answer: str) -> bool:
    """Compare two single expressions; False as well if one of them does not parse."""
    parsed_gold, parsed_answer = _parse(gold), _parse(answer)
    if not parsed_gold or not parsed_answer:
        return False
    left, right = parsed_gold[0], parsed_answer[0]
    if _is_array(left) != _is_array(right):
        return False
    if _same_with_real_roots(left, right):
        return True
    if not (isinstance(left, str) or isinstance(right, str) or _is_array(left)):
        exact = _exact_numbers_equal(left, right)
        if exact is not None:
            return exact
        if _differ_at_a_point(left, right):
            return False
    return bool(verify(parsed_gold, parsed_answer, float_rounding=6, numeric_precision=15, timeout_seconds=None))


def _is_array(side: Any) -> bool:
    """A matrix, or a product such as 1/10 · matrix, which no numerical evaluation below can take."""
    return isinstance(side, MatrixBase) or (isinstance(side, Basic) and bool(side.has(MatrixBase, MatrixExpr)))


def _exact_numbers_equal(gold: Any, answer: Any) -> bool | None:
    """Constants without a decimal point agree to 30 digits or not at all; None for everything else.

    An absolute tolerance would make 1/2004! equal to 1/2006!, and 10^{-20} to 0.
    """
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return None
    if gold.free_symbols or answer.free_symbols or gold.has(Float) or answer.has(Float):
        return None
    gold, answer = gold.doit(), answer.doit()
    if gold.is_Rational and answer.is_Rational:
        return bool(gold == answer)
    values = [gold.evalf(40), answer.evalf(40)]
    if not all(value.is_number and value.is_finite for value in values):
        return None
    difference, size = abs(values[0] - values[1]), abs(values[0])
    return bool(difference <= size * Float("1e-30", 40))


_REAL_POINTS = (Rational(37, 100), Rational(-61, 100), Rational(143, 100), Rational(-229, 100))


def _same_with_real_roots(gold: Any, answer: Any) -> bool:
    r"""Equal when odd roots are read as real ones, as in school: \sqrt[3]{-8} = -2, \sqrt[3]{x^2} = x^{2/3}.

    Compared to 30 digits at points of both signs; applies only where an odd root occurs.
    """
    sides = [side for side in (gold, answer) if isinstance(side, Expr) and not side.has(*_UNEVALUATED, Float)]
    if len(sides) < 2 or not any(_odd_root(power) for side in sides for power in side.atoms(Pow)):
        return False
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    for point in _REAL_POINTS:
        at = {symbol: point + Rational(number, 7) for number, symbol in enumerate(symbols)}
        values = [_real_roots(side.subs(at)).evalf(40) for side in sides]
        if not all(value.is_number and value.is_finite for value in values):
            return False
        if abs(values[0] - values[1]) > abs(values[0]) * Float("1e-30", 40):
            return False
    return True


def _odd_root(power: Any) -> bool:
    return bool(power.exp.is_Rational and power.exp.q > 1 and power.exp.q % 2)


def _real_roots(side: Any) -> Any:
    return side.replace(
        lambda part: isinstance(part, Pow) and _odd_root(part) and part.base.is_real,
        lambda part: real_root(part.base, part.exp.q) ** part.exp.p,
    )


def _differ_at_a_point(gold: Any, answer: Any) -> bool:
    """Expressions that differ at one generic point are not equal: the cheap way out of `simplify` on wrong answers."""
    if any(not isinstance(side, Expr) or side.is_Symbol or side.has(*_UNEVALUATED) for side in (gold, answer)):
        return False
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {symbol: Float(f"0.{37 + 17 * number}", 30) for number, symbol in enumerate(symbols)}
    values = [side.subs(point).evalf(30) for side in (gold, answer)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    tolerance = 1e-4 if gold.has(Float) or answer.has(Float) else 1e-12
    return bool(abs(values[0] - values[1]) > tolerance * max(abs(values[0]), abs(values[1])))


@lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    parsed: list[Any] = parse("$\\boxed{" + text + "}$", extraction_config=_EXTRACTION, parsing_timeout=None)
    return [_with_imaginary_unit(item) for item in parsed]


def _with_imaginary_unit(parsed: Any) -> Any:
    """Read a free symbol i as the imaginary unit, on both sides alike."""
    symbols = parsed.free_symbols if isinstance(parsed, Expr) else ()
    imaginary = {symbol: I for symbol in symbols if symbol.name in ("i", "imath")}
    return parsed.subs(imaginary) if imaginary else parsed
