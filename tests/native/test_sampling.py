"""The draw: keyed noise, robust to last bits, with transformers' cuts in transformers' order."""

from dataclasses import replace
from hashlib import blake2b
from math import log1p

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mistral_eval.errors import RequestError
from mistral_eval.native.requests import GenerateRequest, Sampling
from mistral_eval.native.sampling import Draw, Drawn, Running, Sampler

CPU = torch.device("cpu")


def random_logits(rows, words, seed=0):
    return 2 * torch.randn(rows, words, generator=torch.Generator().manual_seed(seed))


def kept_by_transformers(logits, sampling):
    """The log-probabilities that transformers would draw from, (1, words)."""
    cut = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        cut = TopKLogitsWarper(sampling.top_k)(None, cut)
    if sampling.top_p < 1:
        cut = TopPLogitsWarper(sampling.top_p)(None, cut)
    return cut.log_softmax(dim=1)


def murmur_finaliser(x):
    """The published finaliser in whole numbers, modulo 2 ** 32."""
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_noise_is_the_same_on_every_machine():
    """Against the hash in plain whole numbers, and against pinned values."""
    ids = [0, 1, 2, 17, 31999]
    noise = Sampler(32000, CPU).exponentials([("0|gsm8k|7|3", 11)])[0, ids].tolist()
    digest = blake2b(b"0|gsm8k|7|3\x0011", digest_size=8).digest()
    first, second = (int.from_bytes(digest[n : n + 4], "little") for n in (0, 4))
    expected = []
    for word in ids:
        mixed = murmur_finaliser((word * 0x9E3779B1 + 0x7F4A7C15) % 2**32)
        bits = murmur_finaliser((mixed ^ first) * (second | 1) % 2**32) % 2**31
        expected.append(-log1p(-(bits + 0.5) / 2**31))

    assert noise == pytest.approx(expected, rel=1e-6)
    assert noise[:3] == pytest.approx([0.5101370215, 0.2011206895, 0.2255416662], rel=1e-6)


def test_noise_is_standard_exponential():
    """Mean and variance 1 within five standard errors, and no two steps or keys alike."""
    names = [("a", 0), ("a", 1), ("b", 0), ("b", 10), ("b1", 0)]
    noise = Sampler(32000, CPU).exponentials(names).double()

    again = Sampler(32000, CPU)
    first = again.exponentials(names)
    again.exponentials([("c", 0)] * 5)
    assert torch.equal(first.double(), noise), "later noise must not overwrite it"
    assert (noise.mean(dim=1) - 1).abs().max() < 5 / 32000**0.5
    assert (noise.var(dim=1) - 1).abs().max() < 5 * (8 / 32000) ** 0.5
    correlation = torch.corrcoef(noise) - torch.eye(len(names))
    assert correlation.abs().max() < 5 / 32000**0.5


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 0.6, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 1000]),
)
def test_draws_lie_in_what_transformers_keeps(seed, temperature, top_p, top_k):
    logits = random_logits(1, 50, seed)
    sampling = Sampling(temperature, top_p, top_k)
    kept = kept_by_transformers(logits, sampling)[0].isfinite()
    draws = [Draw(sampling, f"{seed}", step) for step in range(40)]
    drawn = Sampler(50, CPU).draw(logits.expand(40, 50), draws)

    assert kept[drawn].all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    sampling=st.builds(
        Sampling,
        st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        st.sampled_from([0.05, 0.5, 0.95, 1.0]),
        st.sampled_from([0, 1, 3, 1000]),
    ),
    among=st.sets(st.integers(0, 49), min_size=1).map(lambda ids: tuple(sorted(ids))),
    sorts=st.booleans(),
)
def test_ids_that_may_not_be_drawn_have_no_part_in_the_draw(seed, sampling, among, sorts):
    """Top-k and top-p keep what transformers keeps of the other ids, with the same noise."""
    logits = random_logits(2, 50, seed)
    before = logits.clone()
    draws = [Draw(sampling, f"{seed}", step, among) for step in range(40)]
    rows = logits[:1].expand(40, 50)
    drawn = Sampler(50, CPU, sorts=sorts).draw(rows, draws).tolist()
    alone = logits[:1, list(among)]
    if sampling.temperature == 0:
        expected = [among[int(alone.argmax())]] * 40
    else:
        kept = kept_by_transformers(alone, sampling)[0]
        noise = Sampler(50, CPU).exponentials([(draw.key, draw.step) for draw in draws])
        race = kept.exp() / noise[:, list(among)]
        expected = [among[n] for n in race.argmax(dim=1).tolist()]
    assert drawn == expected
    assert torch.equal(logits, before)
    mixed = [draws[0], replace(draws[0], among=())]
    first, second = Sampler(50, CPU, sorts=sorts).draw(logits.clone(), mixed).tolist()
    assert first == expected[0]
    assert second == Sampler(50, CPU, sorts=sorts).draw(logits[1:], mixed[1:]).item()


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.6, top_p=0.95), Sampling(1.5, top_p=0.7, top_k=8)]
)
def test_frequencies_are_the_probabilities_of_transformers(sampling):
    """20000 draws from 12 words: every frequency within five standard errors."""
    logits = random_logits(1, 12)
    expected = kept_by_transformers(logits, sampling)[0].exp()
    draws = [Draw(sampling, "frequencies", step) for step in range(20000)]
    drawn = Sampler(12, CPU).draw(logits.expand(20000, 12), draws)
    frequencies = drawn.bincount(minlength=12) / 20000

    assert ((frequencies - expected).abs() <= 5 * (expected / 20000).sqrt()).all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 0.6, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 1000]),
)
def test_a_sort_draws_what_asking_the_winner_draws(seed, temperature, top_p, top_k):
    """The cuts of a device whose host looks at no draw, against those of a CPU."""
    logits = random_logits(40, 50, seed).round(decimals=1)  # with ties
    draws = [Draw(Sampling(temperature, top_p, top_k), f"{seed}", step) for step in range(40)]
    sorting, asking = (Sampler(50, CPU, sorts=sorts).draw(logits, draws) for sorts in (True, False))

    assert sorting.tolist() == asking.tolist()


def test_last_bits_of_the_logits_change_no_draw():
    """Noise of 1e-6 on the logits, as another batch size would give: 0 of 2000 draws flip."""
    logits = random_logits(2000, 500)
    nudged = logits + 1e-6 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    draws = [Draw(Sampling(0.8, top_p=0.95), "flip", step) for step in range(2000)]
    sampler = Sampler(500, CPU)

    assert (sampler.draw(logits, draws) != sampler.draw(nudged, draws)).sum() == 0


def test_temperature_zero_takes_the_lowest_id_of_equal_logits():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])

    assert Sampler(4, CPU).draw(logits, [Draw(Sampling(), "", 0)]).tolist() == [1]


def test_rows_with_different_settings_are_drawn_side_by_side():
    """Each row gives what it gives alone."""
    kinds = [Sampling(), Sampling(1.0), Sampling(0.5, top_k=2), Sampling(2.0, top_p=0.5)] * 3
    draws = [Draw(kind, f"row {n}", n) for n, kind in enumerate(kinds)]
    logits = random_logits(len(kinds), 300)
    sampler = Sampler(300, CPU)
    alone = [sampler.draw(logits[n : n + 1], [draw]).item() for n, draw in enumerate(draws)]

    assert sampler.draw(logits, draws).tolist() == alone


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[0.0, -300.0, 0.0]]).expand(500, 3)
    drawn = Sampler(3, CPU).draw(logits, [Draw(Sampling(1.0), "z", n) for n in range(500)])

    assert set(drawn.tolist()) == {0, 2}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_ends_with_its_name_and_not_in_a_loop(value):
    """Under top-k and top-p together no token of such a row survives the cuts."""
    logits = random_logits(2, 50)
    logits[1, 7] = value
    draws = [Draw(Sampling(1.0, top_k=5, top_p=0.9), "row", n) for n in range(2)]
    running = [Running(n, GenerateRequest((1,), 3)) for n in range(2)]
    drawn = Drawn(Sampler(50, CPU), logits, draws)

    with pytest.raises(RequestError, match="not finite") as error:
        drawn.read(running, [True, True])
    assert error.value.index == 1
    assert len(drawn.read(running, [True, False])) == 2  # the request has ended: its row is idle
