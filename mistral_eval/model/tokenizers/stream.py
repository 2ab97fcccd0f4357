"""The text of a continuation: decoded with its prompt, then cut at the prompt's text.

A continuation decoded alone loses SentencePiece's leading space, and with it the indentation of a
program's first line. Decoding the whole prompt at each step would be exact and slow; only its tail
is needed, from the last id that begins a character (`Tokenizer.starts_afresh`): ids from there on
decode to the same text whatever came before, except that the first id of a decoded text loses one
space, and that id is the tail's own first in the text with and in the text without the
continuation. tests/model/test_stream.py compares with the whole decode.
"""

from collections.abc import Sequence

from mistral_eval.model.tokenizers.tokenizer import Tokenizer


def continuation_text(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], new_ids: Sequence[int]
) -> str:
    """What `new_ids` add to the text of `prompt_ids`.

    Where the prompt ends inside a character, the character belongs to the continuation: the cut is
    at the longest common beginning of both texts.
    """
    return _added_text(tokenizer, prompt_tail(tokenizer, prompt_ids), new_ids)


def prompt_tail(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """The end of a prompt that decides the text after it; the whole prompt if no id is safe."""
    for start in range(len(prompt_ids) - 1, -1, -1):
        if tokenizer.starts_afresh(prompt_ids[start]):
            return list(prompt_ids[start:])
    return list(prompt_ids)


class StreamText:
    """The text of a growing continuation, equal to `continuation_text` after every push.

    Ids fall into groups that begin with an id that starts afresh. A group's text is settled when
    the next one begins, so each push decodes the last two groups alone: a constant amount, save in
    a run of byte ids, which is one group as long as it lasts.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = prompt_tail(tokenizer, prompt_ids)
        self._group: list[int] = []
        self._settled = ""
        self._open = ""

    def push(self, token: int) -> None:
        """Take the next id of the continuation."""
        if self._group and self._tokenizer.starts_afresh(token):
            self._settled += self._open
            is_anchored = self._tokenizer.starts_afresh(self._group[0])
            # a group that only completes the prompt's last character still needs the prompt's tail
            self._context = self._group if is_anchored else self._context + self._group
            self._group = []
        self._group.append(token)
        self._open = _added_text(self._tokenizer, self._context, self._group)

    @property
    def text(self) -> str:
        """The text so far."""
        return self._settled + self._open


def _added_text(tokenizer: Tokenizer, before: Sequence[int], after: Sequence[int]) -> str:
    """decode(before + after) beyond what it shares with decode(before)."""
    old = tokenizer.decode(before)
    new = tokenizer.decode([*before, *after])
    if new.startswith(old):
        return new[len(old) :]
    pairs = zip(old, new, strict=False)
    shared = next((at for at, (left, right) in enumerate(pairs) if left != right), len(new))
    return new[shared:]
