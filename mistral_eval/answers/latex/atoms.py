"""The lower half of the answer grammar: a cursor over tokens, and everything that binds tightly."""

from abc import ABC, abstractmethod

from mistral_eval.answers.latex.nodes import LatexError, Node, name, number, product, vocabulary
from mistral_eval.answers.latex.tokens import Token

MAX_DEPTH = 40
MAX_TOKENS = 800
MAX_POSTFIXES = 4
CLOSERS = frozenset({"", ")", "]", "}", "set}", "endfloor", "endceil", "end", "&", "row"})
ATOMS = vocabulary(
    "number based repeat name word function ( [ { {set floor ceil begin frac sqrt binom |"
)
CALLED = frozenset("fgFG")  # letters that name functions where a parenthesis follows
MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix"})
INVERTIBLE = vocabulary("sin cos tan cot sec csc")


class Atoms(ABC):
    """A cursor over tokens with one method per rule; `answer` is the upper half's entry."""

    def __init__(self, found: list[Token]) -> None:
        if len(found) > MAX_TOKENS:
            raise LatexError(f"more than {MAX_TOKENS} tokens")
        self._tokens = found
        self._place = 0
        self._depth = 0
        self._bars = 0  # | that wait for their closing |

    @abstractmethod
    def answer(self) -> Node:
        """Parse a whole list of relations."""

    @property
    def kind(self) -> str:
        """Kind of the current token; empty at the end."""
        return self.ahead(0)

    def ahead(self, steps: int) -> str:
        """Kind of the token `steps` further on; empty after the end."""
        place = self._place + steps
        return self._tokens[place].kind if place < len(self._tokens) else ""

    def closed(self) -> bool:
        """Whether the current token closes what is open."""
        return self.kind in CLOSERS or (self.kind == "|" and self._bars > 0)

    def at_atom(self) -> bool:
        """Whether an atom starts here, so that a product can go on without a sign."""
        return self.kind in ATOMS and not self.closed()

    def take(self) -> Token:
        """Take the current token."""
        if not self.kind:
            raise LatexError("the answer ends too early")
        self._place += 1
        return self._tokens[self._place - 1]

    def accept(self, *kinds: str) -> bool:
        """Take the current token if it is one of these kinds."""
        if self.kind in kinds:
            self._place += 1
            return True
        return False

    def expect(self, kind: str) -> None:
        """Take a token that must be of this kind."""
        if not self.accept(kind):
            raise LatexError(f"expected {kind!r}, found {self.kind!r}")

    def factor(self) -> Node:
        """Parse a signed atom with its power, factorial, percent sign and degree."""
        negative = False
        while self.kind in {"-", "+"}:
            negative ^= self.take().kind == "-"
        node = self._atom()
        powered = False
        for _ in range(MAX_POSTFIXES):
            if self.kind == "^" and self.ahead(1) == "deg":
                self.take()
            if self.kind == "^" and not powered:
                self.take()
                node, powered = Node("pow", (node, self._script(digits=False))), True
            elif self.kind in {"!", "%", "deg"}:
                op = {"!": "factorial", "%": "percent", "deg": "deg"}[self.take().kind]
                node = Node(op, (node,))
            else:
                break
        return Node("neg", (node,)) if negative else node

    def units(self) -> None:
        """Skip the units after a number: `square feet`, `cm^2`, `km / h`. Nothing may follow."""
        while self.kind == "word" or (self.kind in {"/", "*", "-"} and self.ahead(1) == "word"):
            self.take()
            if self.accept("^"):
                self._script(digits=False)
        if self.at_atom():
            raise LatexError("a value goes on after its unit")

    def _atom(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LatexError(f"nested more than {MAX_DEPTH} deep")
        token = self.take()
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
                words.append(self.take().text)
            if self.at_atom():
                raise LatexError("a value goes on after a word")
            return name(" ".join(words))
        return None

    def _name(self, text: str) -> Node:
        if self.accept("_"):
            text += "_" + _flat(self._script(digits=False))
        while len(text) < MAX_DEPTH and self.accept("'"):
            text += "'"
        if text[0] in CALLED and self.kind == "(":
            self.take()
            return Node("call", (text, self._inside(")")))
        return name(text)

    def _inside(self, *closers: str) -> Node:
        """Parse up to one of the closing tokens and take it."""
        bars, self._bars = self._bars, 0
        node = self.answer()
        self._bars = bars
        if not self.accept(*closers):
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
        """Parse a group, a tuple or an interval: half-open ones close with the other bracket."""
        node = self._inside(")", "]")
        close = self._tokens[self._place - 1].kind
        if node.op == "list":
            return Node("seq", (opening, close, *node.args))
        if opening + close not in {"()", "[]"}:
            raise LatexError("brackets of two kinds around one value")
        return node

    def _set(self) -> Node:
        if self.accept("set}"):
            return name("emptyset")
        node = self._inside("set}")
        return Node("set", node.args if node.op == "list" else (node,))

    def _absolute(self) -> Node:
        self._bars += 1
        node = self.answer()
        self._bars -= 1
        self.expect("|")
        return Node("abs", (node,))

    def _built(self, token: Token) -> Node:
        if token.kind == "frac":
            return Node("div", (self._script(), self._script()))
        if token.kind == "binom":
            return Node("binom", (self._script(), self._script()))
        if token.kind == "sqrt":
            degree = self._inside("]") if self.accept("[") else number("2")
            return Node("root", (self._script(), degree))
        if token.kind == "function":
            return self._function(token.text)
        if token.kind == "begin" and token.text in MATRICES:
            return self._matrix(token.text)
        raise LatexError(f"did not expect {token.text!r}")

    def _script(self, *, digits: bool = True) -> Node:
        r"""Parse the argument of a command or of ^ and _: a group or one token.

        With `digits`, a number's first digit alone is the argument, as in TeX: `\frac12`.
        """
        if self.kind in {"-", "+"}:
            sign = self.take().kind
            node = self._script(digits=digits) if self.kind not in {"-", "+"} else self._atom()
            return Node("neg", (node,)) if sign == "-" else node
        if digits and self.kind == "number" and "." not in self._tokens[self._place].text:
            text = self.take().text
            if text[1:]:
                self._place -= 1
                self._tokens[self._place] = Token("number", text[1:])
            return number(text[0])
        return self._atom()

    def _function(self, text: str) -> Node:
        power = base = None
        while (self.kind == "^" and power is None) or (self.kind == "_" and base is None):
            if self.take().kind == "^":
                power = self._script(digits=False)
            else:
                base = self._script(digits=False)
        if text in INVERTIBLE and power == Node("neg", (number("1"),)):
            text, power = "arc" + text, None
        parenthesis = self.kind == "("
        factors = [self._atom() if parenthesis else self.factor()]
        while not parenthesis and self.at_atom() and self.kind not in {"function", "(", "word"}:
            factors.append(self.factor())
        argument = product(*factors)
        if text == "log":
            node = Node("log", (argument, base or number("10")))
        elif base is None:
            node = Node("function", (text, argument))
        else:
            raise LatexError(f"{text} has no base")
        return Node("pow", (node, power)) if power else node

    def _matrix(self, kind: str) -> Node:
        if kind == "array" and self.accept("{"):
            while not self.accept("}"):
                self.take()
        rows: list[list[Node]] = [[]]
        while True:
            if self.kind != "end":
                rows[-1].append(self.answer())
            if self.accept("row"):
                if self.kind != "end":
                    rows.append([])
            elif not self.accept("&"):
                break
        self.expect("end")
        if {len(row) for row in rows} != {len(rows[0])} or not rows[0]:
            raise LatexError("the rows of a matrix differ in length")
        return Node("matrix", (str(len(rows[0])), *(entry for row in rows for entry in row)))


def _flat(node: Node) -> str:
    """Return the leaves of a subscript as text."""
    return "".join(leaf.text for leaf in node.walk())
