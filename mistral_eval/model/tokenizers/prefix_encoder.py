"""Text to ids, where the beginning is that of the text before: only the rest is encoded.

The few-shot block comes again with each question of a benchmark and the context with each choice.
A tokenizer says where a text may be cut (`Tokenizer.last_cut`); what stands before the last cut
that two texts share has the same ids in both.
"""

from mistral_eval.model.tokenizers.tokenizer import Tokenizer


class PrefixEncoder:
    """A tokenizer's own ids with BOS, for less where texts that begin alike follow each other."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text, self._ids = "", tuple(tokenizer.encode("", bos=True))
        # One object per id, shared by all texts: a few-shot test set's prompts hold 40 million ids.
        self._integers = list(range(tokenizer.n_words))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, which is kept to compare the next ones with."""
        if text != self._text:
            self._ids = self.encode_beside(text)
            self._text = text
        return self._ids

    def encode_beside(self, text: str) -> tuple[int, ...]:
        """Ids of a text, compared with the one that `encode` saw last, and not kept."""
        known = self._text
        shared = _common(known, text)
        # a space in the new text alone is a cut of the old one only behind its last character
        cut = self._tokenizer.last_cut(text, shared if shared == len(known) else shared - 1)
        if len(known) - cut >= cut:  # what is known of the beginning is not worth the rest
            return self._shared(self._tokenizer.encode(text, bos=True))
        own = len(self._tokenizer.encode_rest(known[cut:])) if cut < len(known) else 0
        rest = self._tokenizer.encode_rest(text[cut:])
        return self._ids[: len(self._ids) - own] + self._shared(rest)

    def _shared(self, ids: list[int]) -> tuple[int, ...]:
        return tuple(map(self._integers.__getitem__, ids))


def _common(left: str, right: str) -> int:
    """Length of the longest common beginning, by halving."""
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
