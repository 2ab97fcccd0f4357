"""Decide whether two parsed answers are equivalent: lists, sets, intervals, relations, matrices.

`docs/scoring.md` specifies what counts as equivalent, and why.
"""

from itertools import pairwise

from mistral_eval.answers.latex.nodes import Node, name
from mistral_eval.answers.latex.values import (
    TooLargeError,
    Value,
    at,
    is_finite,
    is_positive,
    is_zero,
    points,
    same_value,
    value,
)

MAX_ITEMS = 60
MAX_SIDES = 8  # of an equation that states a value
INEQUALITIES = frozenset({"<", ">", "<=", ">="})
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "in": "in"}
INFINITY = name("infty")
REALS = frozenset({name("mathbb R"), name("R")})
CONSTANTS = frozenset({INFINITY, name("pi"), name("i"), name("e")})


def same(a: Node, b: Node) -> bool:
    """Return whether a gold answer `a` and an answer `b` are equivalent."""
    if a == b or _states(b, a):
        return True
    if a.op == b.op == "relation" and _same_relation(a, b):
        return True
    a, b = _stripped(a, b), _stripped(b, a)
    left, right = _members(a), _members(b)
    if len(left) > 1 or len(right) > 1 or "set" in {a.op, b.op}:
        return _same_members(left, right, distinct="set" in {a.op, b.op})
    return _same_single(left[0], right[0])


def _same_single(a: Node, b: Node) -> bool:
    """Compare two answers that are not collections."""
    if a == b:
        return True
    if "relation" in {a.op, b.op}:
        return False
    left, right = _pieces(a), _pieces(b)
    if (left, right) != ([a], [b]):
        return _same_members(left, right, distinct=False)
    if {"seq", "matrix", "minus", "cap"} & {a.op, b.op}:
        return _same_entries(a, b)
    return _same_scalar(a, b)


def _same_members(left: list[Node], right: list[Node], *, distinct: bool) -> bool:
    """Match elements in any order; with `distinct`, equal elements count once, as in a set."""
    if max(len(left), len(right)) > MAX_ITEMS:
        return False
    if distinct:
        left, right = _distinct(left), _distinct(right)
    if len(left) != len(right):
        return False
    rest = list(right)
    for item in left:
        match = next((place for place, other in enumerate(rest) if same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _distinct(items: list[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _same_entries(a: Node, b: Node) -> bool:
    """Compare tuples, intervals and matrices entry by entry; a vector may be written as a tuple."""
    marks = [tuple(arg for arg in node.args if isinstance(arg, str)) for node in (a, b)]
    vector = {a.op, b.op} == {"seq", "matrix"} and all(_is_vector(node) for node in (a, b))
    if not vector and (a.op != b.op or marks[0] != marks[1]):
        return False
    pairs = list(zip(a.nodes, b.nodes, strict=False))
    return len(a.nodes) == len(b.nodes) and all(same(x, y) for x, y in pairs)


def _is_vector(node: Node) -> bool:
    if node.op == "matrix":
        return node.text in {"1", str(len(node.nodes))}
    return node.args[:2] == ("(", ")")


def _members(node: Node) -> list[Node]:
    """Return the elements of a collection (or the node itself), each plus-minus expanded."""
    items = node.nodes if node.op in {"list", "or", "set"} else (node,)
    return [chosen for item in items for chosen in _signs(item)]


def _signs(node: Node) -> list[Node]:
    """Expand a plus-minus into its two cases; all signs of an answer are chosen together."""
    if not any(below.op in {"+-", "-+"} for below in node.walk()):
        return [node]
    return [_signed(node, "+-"), _signed(node, "-+")]


def _signed(node: Node, plus: str) -> Node:
    if node.op in {"+-", "-+"}:
        inner = _signed(node.nodes[0], plus)
        return inner if node.op == plus else Node("neg", (inner,))
    return Node(
        node.op, tuple(_signed(arg, plus) if isinstance(arg, Node) else arg for arg in node.args)
    )


def _states(equation: Node, gold: Node) -> bool:
    """Return whether an equation states the gold: `a+b=7` and `7=2+5` state 7.

    One side equals the gold, and every other side equals it too or is a formula in other letters:
    neither `2+5=8` nor `x+3=0` states 8, 0 or x+3. An equation as gold is compared as a whole.
    """
    if equation.op != "relation" or set(equation.args[1::2]) != {"="} or gold.op == "relation":
        return False
    if len(equation.nodes) > MAX_SIDES:
        return False
    letters = _letters(gold)
    others = [side for side in equation.nodes if not same(gold, side)]
    return len(others) < len(equation.nodes) and all(
        _letters(side) and not _letters(side) & letters for side in others
    )


def _letters(node: Node) -> set[str]:
    """Return the unknowns in a node."""
    leaves = (below for below in node.walk() if below.op in {"name", "call"})
    return {leaf.text for leaf in leaves if leaf not in CONSTANTS}


def _stripped(node: Node, other: Node) -> Node:
    r"""Strip the name from a relation: `x = 3` is 3, `x \in S` is S, `x < 2` is an interval.

    Two relations that differ as relations keep their names: x = 3 is not y = 3.
    """
    if node.op == "or":
        ranges = [_interval(item) for item in node.nodes]
        known = [piece for piece in ranges if piece is not None]
        if len(known) == len(ranges):
            union = known[0]
            for piece in known[1:]:
                union = Node("cup", (union, piece))
            return union
    if node.op != "relation" or (other.op == "relation" and "in" not in node.args + other.args):
        return node
    first, sign, last = node.nodes[0], node.args[1], node.nodes[-1]
    if "in" in node.args:
        return last if sign == "in" and _is_name(first) else node
    if set(node.args[1::2]) == {"="}:
        return last if _is_name(first) or len(node.nodes) > 2 else node
    return _interval(node) or node


def _is_name(node: Node) -> bool:
    r"""Return whether a left-hand side only names the answer: x, AB, f(x), (x, y), \angle ABC."""
    if node.op in {"mul", "seq"}:
        return all(_is_name(child) for child in node.nodes)
    return node.op in {"name", "call"} and node not in CONSTANTS


def _same_relation(a: Node, b: Node) -> bool:
    """Compare two relations: side by side, or up to a constant factor."""
    a, b = _ascending(a), _ascending(b)
    if a.args[1::2] == b.args[1::2] and all(
        same(x, y) for x, y in zip(a.nodes, b.nodes, strict=True)
    ):
        return True
    sign = a.args[1]
    if sign == "in" or len(a.nodes) != 2 or len(b.nodes) != 2 or sign != b.args[1]:
        return False
    try:
        left, right = (value(n.nodes[0]) - value(n.nodes[1]) for n in (a, b))
    except TooLargeError:
        return False
    return _same_ratio(left, right, positive=sign not in {"=", "!="})


def _same_ratio(a: Value, b: Value, *, positive: bool) -> bool:
    """Return whether two expressions differ by a constant factor (a positive one, if required)."""
    ratios: list[Value] = []
    if not (is_finite(a) and is_finite(b)):
        return False
    for point in points(a, b):
        top, bottom = at(a, point), at(b, point)
        zeros = is_zero(top), is_zero(bottom)
        if zeros != (False, False):
            if zeros[0] != zeros[1]:
                return False
            continue
        ratios.append(top / bottom)
        if is_zero(ratios[-1] - ratios[0]) is not True:
            return False
    return len(ratios) > 1 and (not positive or is_positive(ratios[0]))


def _ascending(node: Node) -> Node:
    """Reverse a relation if needed, so that it ascends; `2 = x` becomes `x = 2`."""
    signs = node.args[1::2]
    turn = all(sign in {">", ">="} for sign in signs) or (
        signs == ("=",) and not _is_name(node.nodes[0]) and _is_name(node.nodes[1])
    )
    return (
        Node(
            "relation",
            tuple(FLIPPED.get(a, a) if isinstance(a, str) else a for a in node.args[::-1]),
        )
        if turn
        else node
    )


def _interval(node: Node) -> Node | None:
    """Return the interval of an inequality (1 <= x < 2 is [1,2)); None if it describes none."""
    if node.op != "relation" or not set(node.args[1::2]) <= INEQUALITIES:
        return None
    node = _ascending(node)
    sides, signs = node.nodes, node.args[1::2]
    if not set(signs) <= {"<", "<="}:
        return None
    low, high = Node("neg", (INFINITY,)), INFINITY
    if len(sides) == 3 and _is_name(sides[1]):
        opened, closed, low, high = signs[0], signs[1], sides[0], sides[2]
    elif len(sides) == 2 and _is_name(sides[0]):
        opened, closed, high = "<", signs[0], sides[1]
    elif len(sides) == 2 and _is_name(sides[1]):
        opened, closed, low = signs[0], "<", sides[0]
    else:
        return None
    return Node("seq", ("[" if opened == "<=" else "(", "]" if closed == "<=" else ")", low, high))


def _pieces(node: Node) -> list[Node]:
    """Return the parts of a union; the real line without points is split at these points."""
    if node.op == "cup":
        return [piece for part in node.nodes for piece in _pieces(part)]
    if node.op == "minus" and node.nodes[0] in REALS and node.nodes[1].op == "set":
        ends = sorted(_members(node.nodes[1]), key=_place)
        bounds = [Node("neg", (INFINITY,)), *ends, INFINITY]
        return [Node("seq", ("(", ")", low, high)) for low, high in pairwise(bounds)]
    return [node]


def _place(end: Node) -> float:
    """Return the approximate position of an interval's end on the real line."""
    return float(value(end).evalf(20))


def _same_scalar(a: Node, b: Node) -> bool:
    """Compare two numbers or formulas; a percentage stands for its number or a hundredth of it."""
    if "based" in {a.op, b.op}:
        return a == b
    inner_a, inner_b = _percentage(a), _percentage(b)
    try:
        if inner_a and inner_b:
            return same_value(value(inner_a), value(inner_b))
        readings = [
            (value(x), value(y))
            for x in ((inner_a, a) if inner_a else (a,))
            for y in ((inner_b, b) if inner_b else (b,))
        ]
    except TooLargeError:
        return False
    return any(same_value(x, y) for x, y in readings)


def _percentage(node: Node) -> Node | None:
    """Return the number before a percent sign, else None."""
    if node.op == "neg" and node.nodes[0].op == "percent":
        return Node("neg", node.nodes[0].args)
    return node.nodes[0] if node.op == "percent" else None
