"""Useful FLOP: the formulas against a walk over tokens, layers and keys, one by one."""

import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.config import Experts
from mistral_eval.model.products import multiplied, possible_ways
from mistral_eval.model.transformer import Transformer, expected_shapes
from mistral_eval.native import calibrate
from mistral_eval.native.calibrate import matrix_rate
from mistral_eval.native.requests import Flops, GenerateRequest, Sampling, ScoreRequest

CPU = torch.device("cpu")

N_WORDS = 61


def token_flop(config, position: int) -> int:
    """One token at one position: each weight matrix of each layer, and key after key."""
    total = 0
    for name, shape in expected_shapes(config).items():
        if name.startswith("layers.") and len(shape) == 2:
            total += 2 * math.prod(shape)
    for window in config.sliding_window:
        for key in range(position + 1):
            if window is None or key > position - window:
                total += 2 * config.n_heads * config.head_dim  # query times key
                total += 2 * config.n_heads * config.head_dim  # weight times value
    return total


def row_flop(config) -> int:
    return 2 * config.dim * N_WORDS


def end_flop(config) -> int:
    """The linear layers behind the last layer's attention."""
    return sum(
        2 * math.prod(shape)
        for name, shape in expected_shapes(config).items()
        if name.startswith(f"layers.{config.n_layers - 1}.")
        and len(shape) == 2
        and not name.endswith(("wq.weight", "wk.weight", "wv.weight"))
    )


def spared_flop(config, position: int) -> int:
    """A token of which nothing is asked: no attention in the last layer, and nothing after it."""
    window = config.sliding_window[-1]
    keys = position + 1 if window is None else min(position + 1, window)
    return end_flop(config) + 4 * config.n_heads * config.head_dim * keys


@pytest.fixture(params=["window", "none", "mixed"])
def engine(request, make_engine, make_mixed_engine):
    """Windows of 8 in both layers, none, or 5 in the first and none in the second."""
    if request.param == "mixed":
        return make_mixed_engine(32)
    return make_engine(32, window=8 if request.param == "window" else None)


@given(start=st.integers(0, 40), length=st.integers(0, 40))
@settings(max_examples=30)
@pytest.mark.parametrize("window", [1, 8, None])
def test_a_span_and_its_positions_are_its_tokens_one_by_one(make_engine, window, start, length):
    config = make_engine(window=window).model.config
    flops = Flops.of(config, N_WORDS)
    expected = sum(token_flop(config, start + n) for n in range(length))
    assert flops.span(start, start + length) == expected
    assert flops.tokens(np.arange(start, start + length)) == expected


def test_scoring_counts_each_distinct_prefix_and_each_row_that_is_asked(engine):
    """Shared contexts, a request whose whole sequence is another's prefix, and equal requests."""
    context = tuple(range(3, 17))
    requests = [
        *(ScoreRequest((*context, 20), (n,)) for n in (5, 6, 7)),
        ScoreRequest((*context, 21), (5, 6, 7)),
        ScoreRequest((*context, 21), (5, 6)),
        ScoreRequest(context, (20,)),
        ScoreRequest((40, 41), tuple(range(3, 33))),
    ]
    list(engine.score(requests))
    config = engine.model.config
    prefixes, rows = set(), set()
    for request in requests:
        fed = (request.context + request.continuation)[:-1]
        prefixes |= {fed[: n + 1] for n in range(len(fed))}
        rows |= {fed[: n + 1] for n in range(len(request.context) - 1, len(fed))}
    expected = sum(token_flop(config, len(prefix) - 1) for prefix in prefixes)
    assert engine.stats.score_computed == len(prefixes)
    expected -= sum(spared_flop(config, len(prefix) - 1) for prefix in prefixes - rows)
    assert engine.stats.score_flop == expected + row_flop(config) * len(rows)
    assert engine.stats.generate_flop == 0


def test_generation_counts_the_prompts_tree_and_every_token_fed(engine):
    """Three questions behind one block, three samples each, whose replies have various lengths."""
    block = tuple(range(3, 40))
    number = count()
    requests = [
        GenerateRequest(
            (*block, first, *range(44, 44 + first % 5)),
            max_tokens=4 + 6 * sample,
            sampling=Sampling(temperature=1.0),
            key=f"{next(number)}",
        )
        for first in (41, 42, 43)
        for sample in range(3)
    ]
    replies = dict(engine.generate(requests))
    config, stats = engine.model.config, engine.stats
    prefixes = {r.prompt[: n + 1] for r in requests for n in range(len(r.prompt))}
    assert stats.prompt_computed == len(prefixes)
    expected = sum(token_flop(config, len(prefix) - 1) for prefix in prefixes)
    prompts = {r.prompt for r in requests}
    expected += row_flop(config) * len(prompts)
    expected -= sum(spared_flop(config, len(prefix) - 1) for prefix in prefixes - prompts)
    drawn_in_all = 0
    for n, request in enumerate(requests):
        drawn = len(replies[n].ids) + (replies[n].finish == "eos")
        drawn_in_all += drawn
        for step in range(drawn - 1):  # the token drawn last is not fed
            expected += token_flop(config, len(request.prompt) + step) + row_flop(config)
    assert drawn_in_all == stats.generated
    assert stats.generate_flop == expected
    assert stats.score_flop == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_matrix_rate_is_the_best_of_products_that_grow_within_the_time(dtype, monkeypatch):
    """A clock moved by the products alone: a machine that is faster with larger ones."""
    sizes, now = [], [0.0]

    def timed(left, right, way):
        assert left.dtype == dtype
        sizes.append(len(left))
        slower = 1 if way is possible_ways(dtype, CPU)[-1] else 2
        now[0] += slower * 2 * len(left) ** 3 / (1e9 * len(left))
        return multiplied(left, right, way)

    monkeypatch.setattr(calibrate, "multiplied", timed)
    rate = matrix_rate(dtype, CPU, seconds=0.1, clock=lambda: now[0])
    assert rate == pytest.approx(1e9 * max(sizes))
    assert sizes == sorted(sizes)
    assert max(sizes) > 256
    assert sizes.count(max(sizes)) > 1
    assert now[0] <= 0.1


def test_a_slow_machine_is_measured_with_a_small_product_and_once():
    """A clock on which every look takes a second: one product, and the time is over."""
    ticks = count()
    rate = matrix_rate(torch.float32, CPU, seconds=0.5, clock=lambda: next(ticks))
    assert rate == 2 * 256**3
    assert next(ticks) == 4


def test_a_device_that_the_model_fills_has_no_matrix_rate_and_no_error(monkeypatch):
    """The measurement at a run's end must not cost the run its verdicts."""

    def full(*_shape, **_where):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "randn", full)

    assert matrix_rate(torch.float32, torch.device("cpu")) == 0.0


@pytest.mark.parametrize("rows", [None, [1, 4], [6], []])
@pytest.mark.parametrize("experts", [None, Experts(5, 2), Experts(3, 1)])
def test_linear_flop_are_those_of_the_products_that_torch_runs(
    make_engine, make_weights, experts, rows
):
    """Also in a mixture of experts, where a token runs through its own experts only."""
    config = replace(make_engine().model.config, experts=experts)
    model = Transformer(config, make_weights(config), N_WORDS)
    attend = SequencesAttend([7], config.sliding_window, model.dtype, model.device)
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        asked = None if rows is None else torch.tensor(rows, dtype=torch.int64)
        model.hidden(torch.arange(3, 10), torch.arange(7), attend, asked)
    products = {torch.ops.aten.mm, *in_place}
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if op in products)

    flops = Flops.of(config, N_WORDS)
    spared = 0 if rows is None else 7 - len(rows)
    assert flops.linear * 7 - flops.end * spared == counted
