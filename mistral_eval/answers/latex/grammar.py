r"""Parses an answer into a small tree: `parse(r"\frac12, 3")` is a list of two numbers.

Recursive descent with bounded depth and size, so any text is parsed or refused in linear time.

answer   := relation ((, | ; | or) relation)*
relation := union ((= | < | > | <= | >= | != | in) union)*
union    := ratio ((cup | cap | minus) ratio)*
ratio    := sum (: sum)*
sum      := product ((+ | - | +-) product)*
product  := factor ([* | /] factor)* [units]
factor   := [sign] atom (^ script | ! | % | deg)*
"""

from mistral_eval.answers.latex.atoms import Atoms
from mistral_eval.answers.latex.nodes import LatexError, Node, number, product
from mistral_eval.answers.latex.tokens import tokens

RELATIONS = frozenset({"=", "<", ">", "<=", ">=", "!=", "in"})
SEPARATORS = frozenset({",", ";", "or"})
MAX_PLUS_MINUS = 3
MAX_SET_OPERATIONS = 20


def parse(text: str) -> Node:
    """Parse an answer in normal form; raises LatexError where it is not one of this grammar."""
    parser = Parser(tokens(text))
    node = parser.answer()
    if parser.kind:
        raise LatexError(f"did not expect {parser.kind!r}")
    return node


class Parser(Atoms):
    """The upper half of the grammar."""

    def answer(self) -> Node:
        """Parse a list; empty places (`1, and 2`) are skipped, one element is itself."""
        items: list[Node] = []
        op = "list"
        self.accept("=")
        while not self.closed():
            if self.kind in SEPARATORS:
                op = "or" if self.take().kind == "or" else op
                continue
            items.append(self._relation())
            if not self.closed() and self.kind not in SEPARATORS:
                raise LatexError(f"did not expect {self.kind!r}")
        if not items:
            raise LatexError("nothing to read")
        return items[0] if len(items) == 1 else Node(op, tuple(items))

    def _relation(self) -> Node:
        first = self._union()
        parts: list[Node | str] = [first]
        while self.kind in RELATIONS:
            parts += [self.take().kind, self._union()]
        return Node("relation", tuple(parts)) if len(parts) > 1 else first

    def _union(self) -> Node:
        node = self._ratio()
        for _ in range(MAX_SET_OPERATIONS):
            if self.kind not in {"cup", "cap", "minus"}:
                break
            node = Node(self.take().kind, (node, self._ratio()))
        return node

    def _ratio(self) -> Node:
        node = self._sum()
        return Node("div", (node, self._sum())) if self.accept(":") else node

    def _sum(self) -> Node:
        terms = [number("0")] if self.kind in {"+-", "-+"} else [self._product()]
        choices = 0
        while self.kind in {"+", "-", "+-", "-+"}:
            sign = self.take().kind
            term = self._product()
            if sign in {"+-", "-+"}:
                choices += 1
                terms.append(Node(sign, (term,)))
            else:
                terms.append(Node("neg", (term,)) if sign == "-" else term)
        if choices > MAX_PLUS_MINUS:
            raise LatexError("too many plus-minus signs")
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def _product(self) -> Node:
        factors = [self.factor()]
        while self.kind in {"*", "/"} or self.at_atom():
            if self.kind == "word" or (self.kind == "/" and self.ahead(1) == "word"):
                self.units()
                break
            if self.accept("/"):
                factors.append(Node("inv", (self.factor(),)))
            elif self.accept("*"):
                factors.append(self.factor())
            elif _is_integer(_unsigned(factors[-1])) and self.kind in {"number", "frac"}:
                factors[-1] = self._mixed(factors[-1])
            elif self.kind == "number" and factors[-1].op in {"number", "name"}:
                raise LatexError("a number stands beside another without a sign")
            else:
                factors.append(self.factor())
        return product(*factors)

    def _mixed(self, whole: Node) -> Node:
        r"""Parse what follows an integer: `1\frac{1}{2}` and `1 1/2` are mixed numbers."""
        part = self.factor()
        if part.op == "number":
            self.expect("/")
            part = Node("div", (part, self.factor()))
        top, bottom = part.nodes if part.op == "div" else (part, part)
        if not (_is_integer(top) and _is_integer(bottom) and _below(top.text, bottom.text)):
            return Node("mul", (whole, part))
        if whole.op == "neg":
            return Node("neg", (Node("add", (*whole.nodes, part)),))
        return Node("add", (whole, part))


def _unsigned(node: Node) -> Node:
    return node.nodes[0] if node.op == "neg" else node


def _is_integer(node: Node) -> bool:
    return node.op == "number" and "." not in node.text


def _below(a: str, b: str) -> bool:
    """Whether one string of digits is a smaller integer than another, of any length."""
    a, b = a.lstrip("0"), b.lstrip("0")
    return (len(a), a) < (len(b), b)
