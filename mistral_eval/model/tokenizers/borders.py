r"""Decide whether a prompt's last token is healed before a reply is generated.

A prompt of code ends with a line break, and a body's indentation follows. GPT-2's expression
takes white space as one word, so a vocabulary like SmolLM2's has "\n   " as one token. In training
the token "\n" then stands only before text that is not indented, and after a prompt that ends with
it the model writes no body.

A healed prompt is one token shorter, and the reply's first token is drawn among the tokens whose
text begins with the dropped one's, that token included (token healing, as in guidance). Exactly
one token is dropped: the text of two need not be the beginning of any token, and the reply could
then not be drawn as the prompt has it.

Only a prompt that ends with a line break is healed, and only if the tokenizer encodes the line
break otherwise before an indented line. Mistral's tokenizers never do: in SentencePiece's no piece
continues a line break, and tekken's expression ends a word at `\s*[\r\n]+`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mistral_eval.model.tokenizers.incremental import PrefixEncoder, continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

# Lines that may follow a prompt. Where the expression leaves the last space to the word that
# follows, a line is joined with one space less than it has.
_LINES: Final = tuple(
    f"{indent}x" for indent in (*(" " * n for n in (1, 2, 3, 4, 8)), "\t", "\t\t")
)


@dataclass(frozen=True, slots=True)
class Healing:
    """What replaces a prompt's last token.

    Attributes:
        text: the dropped token's text, with which the reply has to begin.
        first: ids that the reply's first token is drawn from, ascending.
    """

    text: str
    first: tuple[int, ...]


class Borders:
    """Finds prompts whose last token has to be healed.

    Args:
        tokenizer: the checkpoint's tokenizer.
        prefixes: its encoder; the prompt's text is the last one it encoded.
    """

    def __init__(self, tokenizer: Tokenizer, prefixes: PrefixEncoder) -> None:
        self._tokenizer = tokenizer
        self._prefixes = prefixes
        self._words: list[str] = []  # the text of every id, once it is needed
        self._first: dict[str, tuple[int, ...]] = {}  # by dropped text
        self._last: tuple[str, Healing | None] = ("", None)

    def healing(self, text: str) -> Healing | None:
        """Return how to heal a prompt; None if its ids stay as they are."""
        if not text.endswith(("\n", "\r")):
            return None
        if text != self._last[0]:  # the samples of a question share their prompt
            self._last = (text, self._healing(text))
        return self._last[1]

    def _healing(self, text: str) -> Healing | None:
        ids = self._prefixes.encode(text)
        if len(ids) < 2 or not self._is_joined(text, ids):  # one has to be left
            return None
        dropped = continuation_text(self._tokenizer, ids[:-1], ids[-1:])
        first = self._beginning_with(dropped)
        return Healing(dropped, first) if ids[-1] in first and len(first) > 1 else None

    def _is_joined(self, text: str, ids: Sequence[int]) -> bool:
        """Return whether the prompt has other ids before an indented line."""
        wholes = (self._prefixes.encode_beside(text + line) for line in _LINES)
        return any(whole[: len(ids)] != ids for whole in wholes)

    def _beginning_with(self, dropped: str) -> tuple[int, ...]:
        """Return the ordinary ids whose text begins with a text."""
        if dropped not in self._first:
            if not self._words:
                # decoded alone, a token may lose its first space, but none before a line break
                self._words = [self._tokenizer.decode([n]) for n in range(self._tokenizer.n_words)]
            found = (n for n, word in enumerate(self._words) if word.startswith(dropped))
            self._first[dropped] = tuple(found)
        return self._first[dropped]
