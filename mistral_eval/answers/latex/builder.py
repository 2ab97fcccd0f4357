"""Turns a tree into a sympy expression of bounded size.

Only sympy's constructors are called, on nodes of our own tree: no model text is ever evaluated.
"""

import math
from collections.abc import Callable
from typing import Any

from mistral_eval.answers.latex.nodes import Node

MAX_BITS = 200_000  # of an exact power
MAX_SYMBOLIC_POWER = 5_000
MAX_FACTORIAL = 3_000
MAX_DIGITS = 4_000  # Python refuses to read longer integers
# What sympy and mpmath raise where a number does not exist (a pole) or cannot be represented.
UNDEFINED = (ArithmeticError, ValueError, TypeError, NotImplementedError)

Value = Any  # a sympy expression; sympy has no types


class TooLargeError(ArithmeticError):
    """The value is too large to be computed, or is not a number at all."""


def value(node: Node) -> Value:
    """Build the sympy expression of a scalar node (no list, interval, relation or matrix).

    A degree sign is a unit and dropped, but inside a function it is pi/180.

    Raises:
        TooLargeError: A power, factorial or literal is too large, or the node is not a number.
    """
    import sympy

    try:
        built = _build(node, turned=False)
    except UNDEFINED as error:
        raise TooLargeError(str(error)) from error
    if built.has(sympy.nan, sympy.zoo):
        raise TooLargeError("not a finite number")
    return built


def _build(node: Node, *, turned: bool) -> Value:
    """Build a node's expression; `turned` says that it is an angle inside a function."""
    if node.op in {"number", "repeat"}:
        return _literal(node.text)
    if node.op == "name":
        return _named(node.text)
    builder = _BUILDERS.get(node.op)
    if builder is None:
        raise TooLargeError(f"{node.op} is not a number")
    inside = turned or node.op == "function"
    arguments = [_build(child, turned=inside) for child in node.nodes]
    if node.op in {"function", "call"}:
        return builder(node.text, *arguments)
    return _degrees(*arguments) if node.op == "deg" and turned else builder(*arguments)


def _literal(text: str) -> Value:
    import sympy

    if len(text) > MAX_DIGITS:
        raise TooLargeError("a number with too many digits")
    head, _, repeated = text.partition("\\")
    whole, _, decimals = head.partition(".")
    numerator, scale = sympy.Integer(int(whole + decimals or "0")), 10 ** len(decimals)
    if not repeated:
        return numerator / scale
    period = repeated[repeated.index("{") + 1 : -1]
    return (numerator + sympy.Rational(int(period), 10 ** len(period) - 1)) / scale


def _named(text: str) -> Value:
    import sympy

    constants = {"pi": sympy.pi, "infty": sympy.oo, "e": sympy.E, "i": sympy.I}
    return constants[text] if text in constants else sympy.Symbol(text)


def _degrees(angle: Value) -> Value:
    import sympy

    return angle * sympy.pi / 180


def _power(base: Value, exponent: Value) -> Value:
    """Return base ** exponent, refusing what would not fit into memory."""
    size = _magnitude(exponent)
    if base.is_Rational:
        bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        if base not in {0, 1, -1} and size * bits > MAX_BITS:
            raise TooLargeError("a power with too many digits")
    elif size > (MAX_BITS if not base.free_symbols else MAX_SYMBOLIC_POWER):
        raise TooLargeError("too large an exponent")
    return base**exponent


def _magnitude(expression: Value) -> float:
    """Return the size of a constant; 1 for a formula."""
    if expression.free_symbols:
        return 1.0
    if expression.is_Rational:
        return float(abs(expression)) if abs(expression) < MAX_BITS else math.inf
    size = abs(expression.evalf(5))
    return float(size) if size.is_Float and size < MAX_BITS else math.inf


def _root(radicand: Value, degree: Value) -> Value:
    if not (degree.is_Integer and 1 < degree < MAX_FACTORIAL):
        raise TooLargeError("a root of a strange degree")
    if radicand.is_Rational and radicand < 0 and degree % 2:
        return -((-radicand) ** (1 / degree))  # the real root, as every textbook means it
    return radicand ** (1 / degree)


def _factorial(argument: Value) -> Value:
    import sympy

    if argument.is_number and not (argument.is_Integer and 0 <= argument <= MAX_FACTORIAL):
        raise TooLargeError("a factorial that is too large, or not of a whole number")
    return sympy.factorial(argument)


def _binomial(top: Value, bottom: Value) -> Value:
    import sympy

    for argument in (top, bottom):
        if argument.is_number and not (argument.is_Integer and 0 <= argument <= MAX_FACTORIAL):
            raise TooLargeError("a binomial coefficient that is too large")
    return sympy.binomial(top, bottom)


def _function(name: str, argument: Value) -> Value:
    import sympy

    if name == "exp":
        return _power(sympy.E, argument)
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}
    if name == "lg":
        return sympy.log(argument, 10)
    return getattr(sympy, names.get(name, name))(argument)


def _log(argument: Value, base: Value) -> Value:
    import sympy

    return sympy.log(argument, base)


def _call(name: str, argument: Value) -> Value:
    import sympy

    return sympy.Symbol(f"{name}({argument})")


def _quotient(top: Value, bottom: Value) -> Value:
    if bottom.is_zero:
        raise TooLargeError("a division by zero")
    return top / bottom


def _apply(name: str) -> Callable[[Value], Value]:
    """Return a builder that applies the sympy function of this name."""

    def build(argument: Value) -> Value:
        import sympy

        return getattr(sympy, name)(argument)

    return build


def _add(*terms: Value) -> Value:
    import sympy

    return sympy.Add(*terms)


def _mul(*factors: Value) -> Value:
    import sympy

    return sympy.Mul(*factors)


_BUILDERS: dict[str, Callable[..., Value]] = {
    "add": _add,
    "mul": _mul,
    "neg": lambda x: -x,
    "inv": lambda x: _quotient(1, x),
    "div": _quotient,
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "binom": _binomial,
    "percent": lambda x: x / 100,
    "deg": lambda x: x,
    "abs": _apply("Abs"),
    "floor": _apply("floor"),
    "ceil": _apply("ceiling"),
    "function": _function,
    "log": _log,
    "call": _call,
}
