"""The syntax tree of an answer, and the error for text outside the grammar."""

from collections.abc import Iterator
from dataclasses import dataclass


class LatexError(ValueError):
    """The text is outside the grammar. Such answers are compared as text."""


@dataclass(frozen=True, slots=True)
class Node:
    r"""One node: an operation and its arguments (nodes, or the text of a leaf).

    Leaves: number, repeat (0.1\overline{6}), based (digits_base), name.
    Values: add, mul, neg, inv, div, pow, root (argument, degree), mixed, factorial, percent, deg,
    abs, floor, ceil, binom, function (name, argument), log (argument, base), call (name, argument),
    +- and -+.
    Shapes: list, or, set, seq (open, close, elements...), matrix (columns, entries...), relation
    (side, sign, side, ...), cup, cap, minus.
    """

    op: str
    args: tuple["Node | str", ...] = ()

    @property
    def nodes(self) -> tuple["Node", ...]:
        """The arguments that are nodes."""
        return tuple(arg for arg in self.args if isinstance(arg, Node))

    @property
    def text(self) -> str:
        """The first argument that is text: a leaf's spelling, a function's name."""
        return next((arg for arg in self.args if isinstance(arg, str)), "")

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all below it."""
        yield self
        for node in self.nodes:
            yield from node.walk()


def number(text: str) -> Node:
    """Return the node of a decimal literal."""
    return Node("number", (text,))


def name(text: str) -> Node:
    """Return the node of a variable or constant."""
    return Node("name", (text,))


def product(*factors: Node) -> Node:
    """Return the product; of one factor, the factor."""
    return factors[0] if len(factors) == 1 else Node("mul", factors)
