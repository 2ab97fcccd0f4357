"""Compare a folder's tokenizer.json with the tokenizer.model or tekken.json beside it.

A fine-tune may change one and keep the other. transformers reads tekken.json first for Mistral's
models, then tokenizer.json, and tokenizer.model only where there is neither.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mistral_eval.model.tokenizers.special import TOKENIZER
from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer

if TYPE_CHECKING:
    from mistral_eval.model.tokenizers.tokenizer import Tokenizer
    from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer

# Texts on which tokenizers of one vocabulary size part: cases, digits, spaces, code, scripts.
PROBES = (
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "HTMLParser camelCase WORDS and 12345 + 67.89 = 12412.89",
    "def f(x):\n    if x:\n\t\treturn {'a': [1, 2]}  # //\n\n\nclass A:\n",
    "  two  spaces   three\r\n \n tail ",
    "Größe, naïve, Ærø; 日本語の文章 и русский текст 🙂👩‍👩‍👧 \u0905\u092e",
    "\\frac{1}{2} $x^2_i$ \\boxed{42}. Answer: (A)",
    "Question: Which of these?\nA. one\nB. two\nAnswer: B",
)


def agreed(
    tokenizer: "SentencePieceTokenizer | TekkenTokenizer", converted: JsonTokenizer, file: Path
) -> "SentencePieceTokenizer | TekkenTokenizer | JsonTokenizer":
    """Return the tokenizer to use of two in one folder, with a note if they differ.

    tekken.json is used in any case. tokenizer.model is used if it agrees with tokenizer.json, whose
    post-processor then decides about BOS.

    Args:
        tokenizer: the one that was trained, from `file`.
        converted: tokenizer.json's.
        file: for the note.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer):
        found = text_difference(tokenizer, converted)
        note = _note(file.name, found, file.name, "as transformers does for Mistral's models")
        return replace(tokenizer, notes=(*tokenizer.notes, note)) if found else tokenizer
    found = piece_difference(tokenizer, converted) or text_difference(tokenizer, converted)
    if found:
        note = _note(file.name, found, "tokenizer.json", "as in transformers")
        return replace(converted, notes=(*converted.notes, note))
    bos_id = tokenizer.bos_id if converted.bos_id is None else converted.bos_id
    return replace(
        tokenizer, bos_id=bos_id, adds_bos=converted.adds_bos, bos_rule=converted.bos_rule
    )


def piece_difference(tokenizer: SentencePieceTokenizer, converted: JsonTokenizer) -> str:
    """Return the first piece of text that has another id in tokenizer.json; empty if none has."""
    for number in range(tokenizer.processor.vocab_size()):
        if tokenizer.is_text(number):
            piece = tokenizer.processor.id_to_piece(number)
            other = converted.backend.id_to_token(number)
            if piece != other:
                return f"token {number} is {piece!r} in one and {other!r} in the other"
    return ""


def text_difference(tokenizer: "Tokenizer", converted: "Tokenizer") -> str:
    """Return the first text of `PROBES` that the two encode to other ids; empty if none is."""
    for text in PROBES:
        if tokenizer.encode(text, bos=False) != converted.encode(text, bos=False):
            return f"on the text {text[:24]!r}..."
    return ""


def _note(name: str, difference: str, used: str, why: str) -> str:
    """Return the note about two files that differ."""
    return (
        f"{name} and tokenizer.json differ ({difference}); {used} is used, {why} "
        f"(`--model-args {TOKENIZER}=FILE` chooses another)"
    )
