"""Build sympy expressions of bounded size from the tree, and compare them as numbers or functions.

Only sympy's constructors are called, on nodes of our own tree: no text of a model is evaluated.
Constants are compared to 420 digits and formulas at fixed rational points, so that every
comparison ends. `tests/answers/test_latex_values.py` checks the results against `sympy.simplify`.
"""

import math
from collections.abc import Callable
from typing import Any

import sympy
from sympy.core.evalf import complex_accuracy, evalf

from mistral_eval.answers.latex.nodes import Node

MAX_BITS = 200_000  # of an exact power
MAX_SYMBOLIC_POWER = 5_000
MAX_FACTORIAL = 3_000
MAX_DIGITS = 4_000  # Python refuses to read longer integers
ZERO_BITS = 1_400  # a difference that vanishes to 420 digits is zero
SURE_BITS = 8  # of accuracy make a difference from zero certain
REAL_BITS = 50  # an imaginary part this far below the real one is rounding
# What sympy and mpmath raise where a number does not exist (a pole) or cannot be represented.
UNDEFINED = (ArithmeticError, ValueError, TypeError, NotImplementedError)

Value = Any  # a sympy expression; sympy has no types

_CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo, "e": sympy.E, "i": sympy.I}
_SYMPY_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}


class TooLargeError(ArithmeticError):
    """The value is too large to compute, or is not a number."""


def value(node: Node) -> Value:
    """Build the sympy expression of a scalar node (no list, interval, relation or matrix).

    A degree sign is dropped as a unit, except inside a function, where it means pi/180.

    Raises:
        TooLargeError: A power, factorial or literal is too large, or the node is not a number.
    """
    try:
        built = _build(node, angle=False)
    except UNDEFINED as error:
        raise TooLargeError(str(error)) from error
    if built.has(sympy.nan, sympy.zoo):
        raise TooLargeError("not a finite number")
    return built


def same_value(a: Value, b: Value) -> bool:
    r"""Return whether two expressions are equal: as built, or at every point where both are real.

    Constants are compared to 420 digits; formulas at six fixed rational points, of which at least
    two must be defined. Points where one of them is not real count only for formulas that contain
    i: `\sqrt{x^3}` and `x\sqrt{x}` are equal in the data's solutions.
    """
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


def is_zero(expression: Value) -> bool | None:
    """Return whether a constant is zero to 420 digits; None if it is not a finite number."""
    if expression.is_Rational:
        return bool(expression == 0)
    result = _evaluated(expression)
    if result is None:
        return None
    return not (result[0] or result[1]) or bool(complex_accuracy(result) < SURE_BITS)


def is_real(expression: Value) -> bool:
    """Return whether a constant expression is a real number."""
    result = _evaluated(expression)
    if result is None:
        return False
    real, imaginary, _, accuracy = result
    return (
        not imaginary or accuracy < SURE_BITS or _exponent(imaginary) < _exponent(real) - REAL_BITS
    )


def is_finite(expression: Value) -> bool:
    """Return whether the expression contains no infinity."""
    return not expression.has(sympy.oo, -sympy.oo)


def is_positive(expression: Value) -> bool:
    """Return whether the real part of a constant is above zero."""
    return bool(sympy.re(expression).evalf(15) > 0)


def points(*expressions: Value) -> list[dict[Value, Value]]:
    """Return substitutions for all unknowns of the expressions: fixed rationals of both signs."""
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


def at(expression: Value, point: dict[Value, Value]) -> Value:
    """Return the expression's value at a point; not-a-number where it has none."""
    try:
        return expression.xreplace(point)
    except UNDEFINED:
        return sympy.nan


def _exponent(number: tuple[int, int, int, int] | None) -> float:
    """Return the binary exponent of mpmath's raw number (sign, mantissa, exponent, bits)."""
    return number[2] + number[3] if number and number[1] else -math.inf


def _evaluated(expression: Value) -> tuple[Any, Any, int, int] | None:
    """Return sympy's (real, imaginary, their accuracies in bits); None where there is no number."""
    if expression.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    try:
        result: Any = evalf(expression, 64, {"maxprec": ZERO_BITS})
    except UNDEFINED:
        return None
    return None if result is sympy.zoo else result


def _build(node: Node, *, angle: bool) -> Value:
    """Build a node's expression; `angle` is true inside a function, where degrees count."""
    if node.op in {"number", "repeat"}:
        return _literal(node.text)
    if node.op == "name":
        return _CONSTANTS[node.text] if node.text in _CONSTANTS else sympy.Symbol(node.text)
    builder = _BUILDERS.get(node.op)
    if builder is None:
        raise TooLargeError(f"{node.op} is not a number")
    inside = angle or node.op == "function"
    arguments = [_build(child, angle=inside) for child in node.nodes]
    if node.op in {"function", "call"}:
        return builder(node.text, *arguments)
    if node.op == "deg" and angle:
        return arguments[0] * sympy.pi / 180
    return builder(*arguments)


def _literal(text: str) -> Value:
    if len(text) > MAX_DIGITS:
        raise TooLargeError("a number with too many digits")
    head, _, repeated = text.partition("\\")
    whole, _, decimals = head.partition(".")
    numerator, scale = sympy.Integer(int(whole + decimals or "0")), 10 ** len(decimals)
    if not repeated:
        return numerator / scale
    period = repeated[repeated.index("{") + 1 : -1]
    return (numerator + sympy.Rational(int(period), 10 ** len(period) - 1)) / scale


def _power(base: Value, exponent: Value) -> Value:
    """Return base ** exponent; refuse what would not fit into memory."""
    size = _magnitude(exponent)
    if base.is_Rational:
        bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        if base not in {0, 1, -1} and size * bits > MAX_BITS:
            raise TooLargeError("a power with too many digits")
    elif size > (MAX_BITS if not base.free_symbols else MAX_SYMBOLIC_POWER):
        raise TooLargeError("too large an exponent")
    return base**exponent


def _magnitude(expression: Value) -> float:
    """Return the absolute value of a constant; 1 for a formula."""
    if expression.free_symbols:
        return 1.0
    if expression.is_Rational:
        return float(abs(expression)) if abs(expression) < MAX_BITS else math.inf
    size = abs(expression.evalf(5))
    return float(size) if size.is_Float and size < MAX_BITS else math.inf


def _root(radicand: Value, degree: Value) -> Value:
    if not (degree.is_Integer and 1 < degree < MAX_FACTORIAL):
        raise TooLargeError("a root whose degree is not a whole number of moderate size")
    if radicand.is_Rational and radicand < 0 and degree % 2:
        return -((-radicand) ** (1 / degree))  # the real root, as textbooks mean it
    return radicand ** (1 / degree)


def _bounded(function: Callable[..., Value]) -> Callable[..., Value]:
    """Return a builder that refuses constants which are not whole numbers up to MAX_FACTORIAL."""

    def build(*arguments: Value) -> Value:
        for argument in arguments:
            if argument.is_number and not (argument.is_Integer and 0 <= argument <= MAX_FACTORIAL):
                raise TooLargeError("a factorial or binomial coefficient that is too large")
        return function(*arguments)

    return build


def _function(name: str, argument: Value) -> Value:
    if name == "exp":
        return _power(sympy.E, argument)
    if name == "lg":
        return sympy.log(argument, 10)
    return getattr(sympy, _SYMPY_NAMES.get(name, name))(argument)


def _quotient(top: Value, bottom: Value) -> Value:
    if bottom.is_zero:
        raise TooLargeError("a division by zero")
    return top / bottom


_BUILDERS: dict[str, Callable[..., Value]] = {
    "add": sympy.Add,
    "mul": sympy.Mul,
    "neg": lambda x: -x,
    "inv": lambda x: _quotient(1, x),
    "div": _quotient,
    "pow": _power,
    "root": _root,
    "factorial": _bounded(sympy.factorial),
    "binom": _bounded(sympy.binomial),
    "percent": lambda x: x / 100,
    "deg": lambda x: x,
    "abs": sympy.Abs,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "function": _function,
    "log": sympy.log,
    "call": lambda name, argument: sympy.Symbol(f"{name}({argument})"),
}
