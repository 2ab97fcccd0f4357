"""Asks whether two sympy expressions are the same number, or the same function.

Numbers are compared to 420 digits and formulas at fixed rational points, so that an answer always
comes; `tests/answers/test_latex_values.py` checks it against sympy's own simplification.
"""

import math
from typing import Any

from mistral_eval.answers.latex.builder import UNDEFINED, Value

ZERO_BITS = 1_400  # a difference that vanishes to 420 digits is zero
SURE_BITS = 8  # of accuracy make a difference from zero certain
REAL_BITS = 50  # an imaginary part this far below the real one is rounding


def is_zero(expression: Value) -> bool | None:
    """Whether a constant expression is zero to 420 digits; None where it is not a finite number."""
    from sympy.core.evalf import complex_accuracy

    if expression.is_Rational:
        return bool(expression == 0)
    result = _evaluated(expression)
    if result is None:
        return None
    return not (result[0] or result[1]) or bool(complex_accuracy(result) < SURE_BITS)


def is_real(expression: Value) -> bool:
    """Whether a constant expression is a real number."""
    result = _evaluated(expression)
    if result is None:
        return False
    real, imaginary, _, accuracy = result
    return not imaginary or accuracy < SURE_BITS or _size(imaginary) < _size(real) - REAL_BITS


def _size(number: tuple[int, int, int, int] | None) -> float:
    """Return the binary exponent of mpmath's raw number (sign, mantissa, exponent, bits)."""
    return number[2] + number[3] if number and number[1] else -math.inf


def _evaluated(expression: Value) -> tuple[Any, Any, int, int] | None:
    """Return sympy's (real, imaginary, their accuracies in bits); None where there is no number."""
    import sympy
    from sympy.core.evalf import evalf

    if expression.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    try:
        result: Any = evalf(expression, 64, {"maxprec": ZERO_BITS})
    except UNDEFINED:
        return None
    return None if result is sympy.zoo else result


def points(*expressions: Value) -> list[dict[Value, Value]]:
    """Return substitutions for all unknowns of the expressions: fixed rationals of both signs."""
    import sympy

    unknowns = sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
    return [
        {
            unknown: sympy.Rational(sign * (top + 2 * place * (place + 1)), bottom + place)
            * (-1 if mixed and place % 2 else 1)
            for place, unknown in enumerate(unknowns)
        }
        for sign, mixed, top, bottom in (
            (1, 0, 7, 3), (1, 0, 2, 5), (1, 0, 17, 2), (-1, 0, 5, 3), (1, 1, 11, 7), (-1, 1, 3, 8),
        )
    ]  # fmt: skip


def same_value(a: Value, b: Value) -> bool:
    r"""Whether two expressions are equal: as built, or at every point where both are real.

    Constants are compared to 420 digits; formulas at six fixed rational points, of which at least
    two must be defined. Points where one of them is not real are kept for formulas with i alone:
    `\sqrt{x^3}` is `x\sqrt{x}` for everybody who asks.
    """
    import sympy

    if a == b:
        return True
    if not (is_finite(a) and is_finite(b)):
        return False
    if not (a.free_symbols or b.free_symbols):
        return is_zero(a - b) is True
    complex_too = a.has(sympy.I) or b.has(sympy.I)
    agreed = 0
    for point in points(a, b):
        left, right = at(a, point), at(b, point)
        if not (complex_too or (is_real(left) and is_real(right))):
            continue
        zero = is_zero(left - right)
        if zero is False:
            return False
        agreed += zero is True
    return agreed > 1


def at(expression: Value, point: dict[Value, Value]) -> Value:
    """Return the expression's value at a point; not-a-number where it has none."""
    import sympy

    try:
        return expression.xreplace(point)
    except UNDEFINED:
        return sympy.nan


def is_finite(expression: Value) -> bool:
    """Whether no infinity is part of the expression."""
    import sympy

    return not expression.has(sympy.oo, -sympy.oo)


def is_positive(expression: Value) -> bool:
    """Whether the real part of a constant is above zero."""
    import sympy

    return bool(sympy.re(expression).evalf(15) > 0)
