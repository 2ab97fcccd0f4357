r"""Encode a text, or decode a continuation, without repeating the work done for its beginning.

Encoding: the few-shot block recurs with each question of a benchmark, and the context with each
choice. A tokenizer says where a text may be cut (`Tokenizer.last_cut`); the ids before the last
cut that two texts share are the same in both. A *cut* is the index of a space after a non-space,
where the tokenizer provably never merges the two. Why this holds:

SentencePiece's BPE merges neighbours into pieces of its vocabulary and matches user-defined
symbols. If no piece has a space mark after another character, none can cross a cut; with an
identity normalizer, text before a cut cannot influence text after it.

A byte-level BPE merges only within the words of its regular expressions; `cuts` proves from them
that each cut is a border between words.

Decoding: a continuation decoded alone loses SentencePiece's leading space, and with it the
indentation of a program's first line, so it is decoded after its prompt and cut there. The end of
the prompt is enough, from the last id that begins a character (`Tokenizer.starts_afresh`): ids from
there on decode to the same text after any prefix, except that the first id of a text loses one
space, which happens with and without the continuation. tests/model/test_tokenizer_stream.py
compares with decoding the whole prompt.
"""

from collections.abc import Iterable, Sequence

from mistral_eval.model.tokenizers.tokenizer import Tokenizer

SPACE = "\u2581"  # SentencePiece's mark for a space


def cut_before_space(text: str, end: int) -> int:
    """Return the last cut at or before `end`; 0 if there is none.

    Python's white space and U+2581 include all that these tokenizers treat as white space.
    """
    at = text.rfind(" ", 0, end + 1)
    while at > 0 and (text[at - 1].isspace() or text[at - 1] == SPACE):
        at = text.rfind(" ", 0, at)
    return max(at, 0)


def joins_across_spaces(pieces: Iterable[str]) -> bool:
    """Return whether a piece has a space, or its mark, after another character."""
    return any(SPACE in piece.lstrip(SPACE) or " " in piece for piece in pieces)


class PrefixEncoder:
    """Encodes texts, reusing the ids of the beginning shared with the previous text.

    A text begins with BOS where the tokenizer adds it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text, self._ids = "", tuple(tokenizer.encode("", bos=tokenizer.adds_bos))
        # One int object per id, shared by all texts: a benchmark's prompts can hold 40 million ids.
        self._integers = list(range(tokenizer.n_words))

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode a text and keep it for comparison with the next ones."""
        if text != self._text:
            self._ids = self.encode_beside(text)
            self._text = text
        return self._ids

    def encode_beside(self, text: str) -> tuple[int, ...]:
        """Encode a text, compared with the last one given to `encode`, without keeping it."""
        known = self._text
        shared = _common(known, text)
        # a space that only the new text has is a cut of the old text only after its last character
        cut = self._tokenizer.last_cut(text, shared if shared == len(known) else shared - 1)
        if len(known) - cut >= cut:  # encoding the old text's rest would cost more than it saves
            return self._shared(self._tokenizer.encode(text, bos=self._tokenizer.adds_bos))
        own = len(self._tokenizer.encode_rest(known[cut:])) if cut < len(known) else 0
        rest = self._tokenizer.encode_rest(text[cut:])
        return self._ids[: len(self._ids) - own] + self._shared(rest)

    def _shared(self, ids: list[int]) -> tuple[int, ...]:
        return tuple(map(self._integers.__getitem__, ids))


def _common(left: str, right: str) -> int:
    """Return the length of the longest common prefix, by bisection."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def continuation_text(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], new_ids: Sequence[int]
) -> str:
    """Return the text that `new_ids` add to the text of `prompt_ids`.

    If the prompt ends inside a character, the character belongs to the continuation: the cut is at
    the end of the longest common prefix of both texts.
    """
    return _added_text(tokenizer, prompt_tail(tokenizer, prompt_ids), new_ids)


def prompt_tail(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """Return the end of a prompt from its last id that starts afresh; else the whole prompt."""
    for start in range(len(prompt_ids) - 1, -1, -1):
        if tokenizer.starts_afresh(prompt_ids[start]):
            return list(prompt_ids[start:])
    return list(prompt_ids)


class StreamText:
    """The text of a growing continuation, equal to `continuation_text` after every push.

    Ids form groups, each beginning with an id that starts afresh. A group's text is final when the
    next group begins, so each push decodes only the last two groups. A run of byte ids is one
    group.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = prompt_tail(tokenizer, prompt_ids)
        self._group: list[int] = []
        self._settled = ""
        self._open = ""

    def push(self, token: int) -> None:
        """Append the next id of the continuation."""
        if self._group and self._tokenizer.starts_afresh(token):
            self._settled += self._open
            is_anchored = self._tokenizer.starts_afresh(self._group[0])
            # a group that completes the prompt's last character still needs the prompt's tail
            self._context = self._group if is_anchored else self._context + self._group
            self._group = []
        self._group.append(token)
        self._open = _added_text(self._tokenizer, self._context, self._group)

    @property
    def text(self) -> str:
        """The text so far."""
        return self._settled + self._open


def _added_text(tokenizer: Tokenizer, before: Sequence[int], after: Sequence[int]) -> str:
    """Return decode(before + after) without the prefix it shares with decode(before)."""
    old = tokenizer.decode(before)
    new = tokenizer.decode([*before, *after])
    if new.startswith(old):
        return new[len(old) :]
    pairs = zip(old, new, strict=False)
    shared = next((at for at, (left, right) in enumerate(pairs) if left != right), len(new))
    return new[shared:]
