"""The rolling buffer holds exactly what is needed: chunks, steps and one pass agree."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.transformer import Transformer

WORDS = 30


def build(*windows):
    config = ModelConfig(
        dim=16,
        n_layers=len(windows),
        head_dim=4,
        hidden_dim=24,
        n_heads=4,
        n_kv_heads=2,
        norm_eps=1e-5,
        vocab_size=WORDS,
        rope_theta=10000.0,
        context_len=64,
        sliding_window=windows,
    )
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(config).items()
    weights = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes}
    return Transformer(config, weights, WORDS)


MODELS = {windows: build(*windows) for windows in [(4, 4), (None, None), (3, None), (7, 2)]}
IDS = torch.randint(WORDS, (41,), generator=torch.Generator().manual_seed(1))


def whole(model, ids):
    windows = model.config.sliding_window
    attend = SequencesAttend([len(ids)], windows, model.dtype, model.device)
    return model.hidden(ids, torch.arange(len(ids)), attend)


def empty_cache(model, rows=1, *, rolling=True):
    return RollingCache(model.config, rows, len(IDS), torch.empty(0), rolling=rolling)


def feed(model, cache, row, ids, tile=256):
    attend = cache.prefill(row, len(ids), tile)
    hidden = model.hidden(ids, attend.positions, attend)
    attend.finish()
    return hidden


def step(model, cache, rows, tokens):
    attend = cache.step(rows)
    hidden = model.hidden(torch.tensor(tokens), attend.positions, attend)
    attend.finish()
    return hidden


@given(
    windows=st.sampled_from(list(MODELS)),
    sizes=st.lists(st.integers(1, 41), min_size=1, max_size=41),
    tile=st.sampled_from([1, 3, 256]),
    rolling=st.booleans(),
)
def test_any_cut_into_chunks_gives_the_states_of_one_pass(windows, sizes, tile, rolling):
    """For every window and every list of chunk sizes, longer than the window or not."""
    model = MODELS[windows]
    cache = empty_cache(model, rolling=rolling)
    parts, start = [], 0
    for size in sizes:
        if start < len(IDS):
            parts.append(feed(model, cache, 0, IDS[start : start + size], tile))
            start += len(parts[-1])

    torch.testing.assert_close(torch.cat(parts), whole(model, IDS[:start]), atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(
    windows=st.sampled_from(list(MODELS)),
    prompts=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    rolling=st.booleans(),
    stride=st.sampled_from([1, 2, -1]),
)
def test_steps_of_sequences_of_different_lengths_give_the_states_of_one_pass(
    windows, prompts, rolling, stride
):
    """Decoding one token at a time, several rows at once, neighbours or not, past the window."""
    model = MODELS[windows]
    rows = [stride * n % 6 for n in range(len(prompts))]
    cache = empty_cache(model, 6, rolling=rolling)
    for row, length in zip(rows, prompts, strict=True):
        feed(model, cache, row, IDS[:length])
    steps = [
        step(model, cache, rows, [int(IDS[length + n]) for length in prompts]) for n in range(20)
    ]

    for row, length in enumerate(prompts):
        states = torch.stack([hidden[row] for hidden in steps])
        expected = whole(model, IDS[: length + 20])[length:]
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


def test_a_cleared_row_starts_again_and_its_neighbour_goes_on():
    model = MODELS[(4, 4)]
    cache = empty_cache(model, 2)
    feed(model, cache, 0, IDS[:9])
    feed(model, cache, 1, IDS[5:20])
    cache.clear(0)
    first, second = feed(model, cache, 0, IDS[20:30]), feed(model, cache, 1, IDS[20:30])

    torch.testing.assert_close(first, whole(model, IDS[20:30]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, whole(model, IDS[5:30])[15:], atol=1e-5, rtol=1e-5)


def test_memory_is_bounded_by_the_window():
    """The paper's claim: at 8 windows of context the buffer is 8 times smaller."""
    like = torch.empty(0)
    rolling = RollingCache(MODELS[(4, 4)].config, 1, 32, like).n_bytes
    full = RollingCache(MODELS[(None, None)].config, 1, 32, like).n_bytes

    assert 8 * rolling == full
