"""Which prompts are healed: those that end with a line break the tokenizer would join."""

import pytest

from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.borders import Borders
from mistral_eval.model.tokenizers.cuts import LLAMA_SPLIT, TEKKEN_SPLIT
from mistral_eval.model.tokenizers.incremental import PrefixEncoder
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from tests.byte_level import BREAK, MERGES, SPACE, TAB, WORDS, save_tokenizer

BODY = 'def f():\n    """Add."""\n'
WITHOUT = tuple(pair for pair in MERGES if not pair[0].startswith(BREAK) or pair[1] == BREAK)


@pytest.fixture
def borders(tmp_path):
    """The function that reads a tokenizer and returns its `Borders`."""

    def make(file=None, **options):
        where = file or save_tokenizer(tmp_path, **options)
        tokenizer = load_tokenizer(where, expected_vocab=ANY_VOCAB)
        return Borders(tokenizer, PrefixEncoder(tokenizer))

    return make


def beginning_with(letters):
    return tuple(number for number, word in enumerate(WORDS) if word.startswith(letters))


@pytest.mark.parametrize(
    ("prompt", "dropped"),
    [
        (BODY, "\n"),
        ("x\n", "\n"),
        ("x\n\n", "\n\n"),
        ("x \n", "\n"),
        ("x = 'é'\n", "\n"),
        ("日本\n", "\n"),
    ],
)
def test_a_line_break_that_is_joined_is_healed(borders, prompt, dropped):
    healing = borders().healing(prompt)
    assert healing is not None
    assert healing.text == dropped
    assert healing.first == beginning_with(BREAK * len(dropped))


@pytest.mark.parametrize(
    "prompt", ["", "\n", "Answer:", "Q: x\nA:", "def f():\n    ", "x ", "x\t", "de", '"""', "x\r"]
)
def test_other_borders_are_left_alone(borders, prompt):
    """A prompt's other ends are the benchmark's own, and one token alone would leave none."""
    assert borders().healing(prompt) is None


@pytest.mark.parametrize("split", [TEKKEN_SPLIT, LLAMA_SPLIT])
def test_an_expression_that_ends_a_word_at_the_line_break_joins_nothing(borders, split):
    """The vocabulary alone does not tell: it is the same."""
    assert borders(split=split).healing(BODY) is None


def test_a_vocabulary_without_joined_tokens_joins_nothing(borders):
    assert borders(merges=WITHOUT).healing(BODY) is None
    assert borders(merges=MERGES).healing(BODY) is not None


@pytest.mark.parametrize("pair", [(BREAK, SPACE), (BREAK, TAB)])
def test_one_kind_of_indentation_is_enough(borders, pair):
    assert borders(merges=(*WITHOUT, pair)).healing("ab\n") is not None


@pytest.mark.parametrize(
    "name",
    sorted(
        file.name
        for file in tiny_tokenizer_file().parent.iterdir()
        if ".model.v" in file.name or file.name.startswith("tekken")
    ),
)
def test_mistrals_own_tokenizers_heal_nothing(borders, name):
    mistrals = borders(tiny_tokenizer_file().parent / name)
    for ending in ("\n", "\n\n", " \n", "\r\n", ":\n", '    """\n', "[BEGIN]\n", "/\n"):
        assert mistrals.healing(f"def f(x):\n    return x{ending}") is None
