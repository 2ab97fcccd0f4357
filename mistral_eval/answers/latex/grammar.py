r"""Parse an answer into a small tree: `parse(r"\frac12, 3")` is a list of two numbers.

Recursive descent with bounded depth and size: any text is parsed or refused in linear time.

answer   := relation ((, | ; | or) relation)*
relation := union ((= | < | > | <= | >= | != | in) union)*
union    := ratio ((cup | cap | minus) ratio)*
ratio    := sum (: sum)*
sum      := product ((+ | - | +-) product)*
product  := factor ([* | /] factor)* [units]
factor   := [sign] atom (^ script | ! | % | deg)*
"""

from mistral_eval.answers.latex.nodes import LatexError, Node, name, number, product
from mistral_eval.answers.latex.tokens import Token, tokens

MAX_DEPTH = 40
MAX_TOKENS = 800
MAX_POSTFIXES = 4
MAX_PLUS_MINUS = 3
MAX_SET_OPERATIONS = 20
RELATIONS = frozenset({"=", "<", ">", "<=", ">=", "!=", "in"})
SEPARATORS = frozenset({",", ";", "or"})
CLOSERS = frozenset({"", ")", "]", "}", "set}", "endfloor", "endceil", "end", "&", "row"})
ATOMS = frozenset(
    "number based repeat name word function ( [ { {set floor ceil begin frac sqrt binom |".split()
)
CALLED = frozenset("fgFG")  # letters that name functions where a parenthesis follows
MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix"})
INVERTIBLE = frozenset("sin cos tan cot sec csc".split())


def parse(text: str) -> Node:
    """Parse an answer in normal form.

    Raises:
        LatexError: The text is not an answer of this grammar.
    """
    parser = _Parser(tokens(text))
    node = parser.answer()
    if parser.kind:
        raise LatexError(f"did not expect {parser.kind!r}")
    return node


class _Parser:
    """A cursor over tokens, with one method for each rule of the grammar."""

    def __init__(self, found: list[Token]) -> None:
        if len(found) > MAX_TOKENS:
            raise LatexError(f"more than {MAX_TOKENS} tokens")
        self._tokens = found
        self._place = 0
        self._depth = 0
        self._bars = 0  # absolute values that are still open

    @property
    def kind(self) -> str:
        """Kind of the current token; empty at the end."""
        return self._ahead(0)

    def _ahead(self, steps: int) -> str:
        """Kind of the token `steps` further on; empty after the end."""
        place = self._place + steps
        return self._tokens[place].kind if place < len(self._tokens) else ""

    def _closed(self) -> bool:
        """Return whether the current token ends the construct being parsed."""
        return self.kind in CLOSERS or (self.kind == "|" and self._bars > 0)

    def _at_atom(self) -> bool:
        """Return whether an atom starts here: a product may continue without a sign."""
        return self.kind in ATOMS and not self._closed()

    def _take(self) -> Token:
        """Take the current token."""
        if not self.kind:
            raise LatexError("the answer ends too early")
        self._place += 1
        return self._tokens[self._place - 1]

    def _accept(self, *kinds: str) -> bool:
        """Take the current token if it is one of these kinds."""
        if self.kind in kinds:
            self._place += 1
            return True
        return False

    def _expect(self, kind: str) -> None:
        """Take the current token; it must be of this kind."""
        if not self._accept(kind):
            raise LatexError(f"expected {kind!r}, found {self.kind!r}")

    def answer(self) -> Node:
        """Parse a list. Empty places (`1, and 2`) are skipped; a single element is not a list."""
        items: list[Node] = []
        op = "list"
        self._accept("=")
        while not self._closed():
            if self.kind in SEPARATORS:
                op = "or" if self._take().kind == "or" else op
                continue
            items.append(self._relation())
            if not self._closed() and self.kind not in SEPARATORS:
                raise LatexError(f"did not expect {self.kind!r}")
        if not items:
            raise LatexError("nothing to read")
        return items[0] if len(items) == 1 else Node(op, tuple(items))

    def _relation(self) -> Node:
        first = self._union()
        parts: list[Node | str] = [first]
        while self.kind in RELATIONS:
            parts += [self._take().kind, self._union()]
        return Node("relation", tuple(parts)) if len(parts) > 1 else first

    def _union(self) -> Node:
        node = self._ratio()
        for _ in range(MAX_SET_OPERATIONS):
            if self.kind not in {"cup", "cap", "minus"}:
                break
            node = Node(self._take().kind, (node, self._ratio()))
        return node

    def _ratio(self) -> Node:
        node = self._sum()
        return Node("div", (node, self._sum())) if self._accept(":") else node

    def _sum(self) -> Node:
        terms = [number("0")] if self.kind in {"+-", "-+"} else [self._product()]
        choices = 0
        while self.kind in {"+", "-", "+-", "-+"}:
            sign = self._take().kind
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
        factors = [self._factor()]
        while self.kind in {"*", "/"} or self._at_atom():
            if self.kind == "word" or (self.kind == "/" and self._ahead(1) == "word"):
                self._units()
                break
            if self._accept("/"):
                factors.append(Node("inv", (self._factor(),)))
            elif self._accept("*"):
                factors.append(self._factor())
            elif _is_integer(_unsigned(factors[-1])) and self.kind in {"number", "frac"}:
                factors[-1] = self._mixed(factors[-1])
            elif self.kind == "number" and factors[-1].op in {"number", "name"}:
                raise LatexError("a number stands beside another without a sign")
            else:
                factors.append(self._factor())
        return product(*factors)

    def _mixed(self, whole: Node) -> Node:
        r"""Parse what follows an integer: `1\frac{1}{2}` and `1 1/2` are mixed numbers."""
        part = self._factor()
        if part.op == "number":
            self._expect("/")
            part = Node("div", (part, self._factor()))
        top, bottom = part.nodes if part.op == "div" else (part, part)
        if not (_is_integer(top) and _is_integer(bottom) and _below(top.text, bottom.text)):
            return Node("mul", (whole, part))
        if whole.op == "neg":
            return Node("neg", (Node("add", (*whole.nodes, part)),))
        return Node("add", (whole, part))

    def _factor(self) -> Node:
        """Parse a signed atom with its power, factorial, percent sign and degree."""
        negative = False
        while self.kind in {"-", "+"}:
            negative ^= self._take().kind == "-"
        node = self._atom()
        powered = False
        for _ in range(MAX_POSTFIXES):
            if self.kind == "^" and self._ahead(1) == "deg":
                self._take()
            if self.kind == "^" and not powered:
                self._take()
                node, powered = Node("pow", (node, self._script(digits=False))), True
            elif self.kind in {"!", "%", "deg"}:
                op = {"!": "factorial", "%": "percent", "deg": "deg"}[self._take().kind]
                node = Node(op, (node,))
            else:
                break
        return Node("neg", (node,)) if negative else node

    def _units(self) -> None:
        """Skip the units after a number: `square feet`, `cm^2`, `km / h`. Nothing may follow."""
        while self.kind == "word" or (self.kind in {"/", "*", "-"} and self._ahead(1) == "word"):
            self._take()
            if self._accept("^"):
                self._script(digits=False)
        if self._at_atom():
            raise LatexError("a value continues after its unit")

    def _atom(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LatexError(f"nested more than {MAX_DEPTH} deep")
        token = self._take()
        node = self._leaf(token) or self._enclosed(token) or self._built(token)
        self._depth -= 1
        return node

    def _leaf(self, token: Token) -> Node | None:
        if token.kind in {"number", "based", "repeat"}:
            return Node(token.kind, (token.text,))
        if token.kind == "name":
            return self._name(token.text)
        if token.kind == "word":
            words = [token.text]
            while self.kind == "word":
                words.append(self._take().text)
            if self._at_atom():
                raise LatexError("a value continues after a word")
            return name(" ".join(words))
        return None

    def _name(self, text: str) -> Node:
        if self._accept("_"):
            text += "_" + _flat(self._script(digits=False))
        while len(text) < MAX_DEPTH and self._accept("'"):
            text += "'"
        if text[0] in CALLED and self.kind == "(":
            self._take()
            return Node("call", (text, self._inside(")")))
        return name(text)

    def _inside(self, *closers: str) -> Node:
        """Parse up to one of the closing tokens and take it."""
        bars, self._bars = self._bars, 0
        node = self.answer()
        self._bars = bars
        if not self._accept(*closers):
            raise LatexError(f"expected {closers}, found {self.kind!r}")
        return node

    def _enclosed(self, token: Token) -> Node | None:
        if token.kind == "{":
            return self._inside("}")
        if token.kind in {"(", "["}:
            return self._bracket(token.kind)
        if token.kind == "{set":
            return self._set()
        if token.kind in {"floor", "ceil"}:
            return Node(token.kind, (self._inside("end" + token.kind),))
        return self._absolute() if token.kind == "|" else None

    def _bracket(self, opening: str) -> Node:
        """Parse a group, a tuple or an interval; a half-open interval mixes the two brackets."""
        node = self._inside(")", "]")
        close = self._tokens[self._place - 1].kind
        if node.op == "list":
            return Node("seq", (opening, close, *node.args))
        if opening + close not in {"()", "[]"}:
            raise LatexError("brackets of two kinds around one value")
        return node

    def _set(self) -> Node:
        if self._accept("set}"):
            return name("emptyset")
        node = self._inside("set}")
        return Node("set", node.args if node.op == "list" else (node,))

    def _absolute(self) -> Node:
        self._bars += 1
        node = self.answer()
        self._bars -= 1
        self._expect("|")
        return Node("abs", (node,))

    def _built(self, token: Token) -> Node:
        if token.kind == "frac":
            return Node("div", (self._script(), self._script()))
        if token.kind == "binom":
            return Node("binom", (self._script(), self._script()))
        if token.kind == "sqrt":
            degree = self._inside("]") if self._accept("[") else number("2")
            return Node("root", (self._script(), degree))
        if token.kind == "function":
            return self._function(token.text)
        if token.kind == "begin" and token.text in MATRICES:
            return self._matrix(token.text)
        raise LatexError(f"did not expect {token.text!r}")

    def _script(self, *, digits: bool = True) -> Node:
        r"""Parse the argument of a command or of ^ and _: a group or one token.

        With `digits`, only a number's first digit is the argument, as in TeX: `\frac12`.
        """
        if self.kind in {"-", "+"}:
            sign = self._take().kind
            node = self._script(digits=digits) if self.kind not in {"-", "+"} else self._atom()
            return Node("neg", (node,)) if sign == "-" else node
        if digits and self.kind == "number" and "." not in self._tokens[self._place].text:
            text = self._take().text
            if text[1:]:
                self._place -= 1
                self._tokens[self._place] = Token("number", text[1:])
            return number(text[0])
        return self._atom()

    def _function(self, text: str) -> Node:
        power = base = None
        while (self.kind == "^" and power is None) or (self.kind == "_" and base is None):
            if self._take().kind == "^":
                power = self._script(digits=False)
            else:
                base = self._script(digits=False)
        if text in INVERTIBLE and power == Node("neg", (number("1"),)):
            text, power = "arc" + text, None
        parenthesis = self.kind == "("
        factors = [self._atom() if parenthesis else self._factor()]
        while not parenthesis and self._at_atom() and self.kind not in {"function", "(", "word"}:
            factors.append(self._factor())
        argument = product(*factors)
        if text == "log":
            node = Node("log", (argument, base or number("10")))
        elif base is None:
            node = Node("function", (text, argument))
        else:
            raise LatexError(f"{text} takes no base")
        return Node("pow", (node, power)) if power else node

    def _matrix(self, kind: str) -> Node:
        if kind == "array" and self._accept("{"):
            while not self._accept("}"):
                self._take()
        rows: list[list[Node]] = [[]]
        while True:
            if self.kind != "end":
                rows[-1].append(self.answer())
            if self._accept("row"):
                if self.kind != "end":
                    rows.append([])
            elif not self._accept("&"):
                break
        self._expect("end")
        if {len(row) for row in rows} != {len(rows[0])} or not rows[0]:
            raise LatexError("the rows of a matrix differ in length")
        return Node("matrix", (str(len(rows[0])), *(entry for row in rows for entry in row)))


def _unsigned(node: Node) -> Node:
    return node.nodes[0] if node.op == "neg" else node


def _is_integer(node: Node) -> bool:
    return node.op == "number" and "." not in node.text


def _below(a: str, b: str) -> bool:
    """Compare two integers of any length as strings of digits: return whether a < b."""
    a, b = a.lstrip("0"), b.lstrip("0")
    return (len(a), a) < (len(b), b)


def _flat(node: Node) -> str:
    """Join the leaves of a subscript to a text."""
    return "".join(leaf.text for leaf in node.walk())
