"""The LM head in tiles gives what log_softmax and argmax over the whole row give."""

from dataclasses import replace

import pytest
import torch

from mistral_eval.model.transformer import Transformer
from mistral_eval.native.head import Asked, token_logprobs

N_WORDS = 5000  # three tiles, the last one not full


@pytest.fixture(name="model", scope="module")
def fixture_model(make_engine, make_weights):
    """A toy transformer with a vocabulary of several tiles; words 7 and 4321 are twins."""
    config = replace(make_engine().model.config, vocab_size=N_WORDS + 10)
    weights = make_weights(config)
    weights["output.weight"][4321] = weights["output.weight"][7]
    return Transformer(config, weights, N_WORDS)


def test_log_probabilities_and_argmax_are_those_of_the_whole_row(model):
    """300 rows, several blocks; each row asked for its argmax and for two other words."""
    hidden = torch.randn(300, model.config.dim, generator=torch.Generator().manual_seed(0))
    whole = model.logits(hidden).log_softmax(dim=1)
    best = whole.argmax(dim=1).tolist()
    asked = [Asked(row, word, row) for row in range(300) for word in (best[row], 7, 4999)]
    found = [one for block in token_logprobs(model, hidden, asked) for one in block.read()]

    assert [item for item, _, _ in found] == asked
    expected = [float(whole[item.row, item.token]) for item in asked]
    assert [logprob for _, logprob, _ in found] == pytest.approx(expected, abs=1e-5)
    assert [greedy for _, _, greedy in found] == [x.token == best[x.row] for x in asked]


def test_of_equal_logits_the_lowest_id_is_greedy(model):
    """Words 7 and 4321 have the same row of the LM head; one row has one tile for all words."""
    direction = model.logits(torch.eye(model.config.dim))[:, 7]  # the row itself
    for count in (1, 256):
        hidden = 50 * direction.repeat(count, 1)
        asked = [Asked(row, word, row) for row in range(count) for word in (7, 4321)]
        (block,) = token_logprobs(model, hidden, asked)

        assert [greedy for _, _, greedy in block.read()] == [True, False] * count


@pytest.mark.parametrize("count", [1, 2, 47, 48])
def test_few_rows_have_the_logits_they_have_among_many(model, count):
    """Few are multiplied the other way round, and in fewer and wider tiles."""
    hidden = torch.randn(256, model.config.dim, generator=torch.Generator().manual_seed(1))
    few, many = model.logits(hidden[:count]), model.logits(hidden)
    asked = [Asked(row, 9, row) for row in range(256)]
    numbers = [
        [logprob for block in token_logprobs(model, states, some) for _, logprob, _ in block.read()]
        for states, some in ((hidden[:count], asked[:count]), (hidden, asked))
    ]

    assert few.is_contiguous()
    torch.testing.assert_close(few, many[:count], rtol=0, atol=1e-5)
    assert numbers[0] == pytest.approx(numbers[1][:count], abs=1e-5)
