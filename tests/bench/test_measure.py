"""What is measured is what is said: real caches, real passes, the same logits."""

import time
from dataclasses import replace

import pytest
import torch

from mistral_eval.bench.cases import BenchSettings, Case, entries
from mistral_eval.bench.measure import Clock, PeakWatch, measure
from mistral_eval.bench.measurements import Found, as_json, claims, lines, markdown
from mistral_eval.bench.session import run_bench
from mistral_eval.bench.shapes import SHAPES, read_subject
from mistral_eval.bench.shared_prefix import (
    CONTINUATION,
    REQUESTS,
    Counted,
    measure_prefix,
    prompt_tokens,
)
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.calibrate import random_weights

CPU = torch.device("cpu")
TINY = SHAPES["tiny"]
WORDS = TINY.vocab_size
SMALL = BenchSettings(contexts=(64, 128), window=16, chunk=4, decode_tokens=4, repeats=1)
IDS = torch.randint(WORDS, (128,), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def weights():
    return random_weights(TINY, torch.float32, CPU)


def model_of(case, weights):
    return Transformer(case.config(TINY, 128), weights, WORDS)


def logits_of(case, weights):
    """The last token's logits after prefill in chunks and decoding, as `measure` runs them."""
    model = model_of(case, weights)
    cache = RollingCache(model.config, 1, case.context, torch.empty(0), rolling=case.rolling)
    ids = IDS[: case.context]
    for chunk in torch.split(ids[: case.prefilled], case.chunk):
        attend = cache.prefill(0, len(chunk))
        model.hidden(chunk, attend.positions, attend)
        attend.finish()
    for token in torch.split(ids[case.prefilled :], 1):
        attend = cache.step([0])
        hidden = model.hidden(token, attend.positions, attend)
        attend.finish()
    return model.logits(hidden), cache


def test_below_the_window_the_rolling_buffer_gives_the_logits_of_full_attention(weights):
    ours = Case(128, 256, 2, True, 16, 8)
    windowed, cache = logits_of(ours, weights)
    full, _ = logits_of(replace(ours, window=None), weights)
    torch.testing.assert_close(windowed, full)
    assert cache.lengths == [128]


def test_past_the_window_the_full_cache_gives_the_logits_of_the_rolling_buffer(weights):
    """And full attention gives others: the window is really on."""
    ours = Case(128, 16, 2, True, 8, 8)
    rolling, small = logits_of(ours, weights)
    kept, large = logits_of(replace(ours, rolling=False), weights)
    full, _ = logits_of(replace(ours, window=None), weights)
    torch.testing.assert_close(rolling, kept, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(rolling, full, atol=1e-2)
    assert 8 * small.n_bytes == large.n_bytes


def test_a_measurement_runs_the_whole_context_and_weighs_the_cache(weights):
    case = Case(128, 16, 2, True, 8, 8)
    speed = measure(model_of(case, weights), case, IDS, replace(SMALL, repeats=2))
    assert speed.passes == 2
    assert speed.cache_bytes == 2 * TINY.n_layers * 2 * TINY.head_dim * 16 * 4
    assert speed.attention > speed.prefill > 0
    assert speed.decode > 0
    assert speed.cpu_share is not None
    assert 0 < speed.cpu_share < 1.5


def test_a_case_that_others_disturbed_is_told_of(found):
    quiet = replace(found, speeds={c: replace(s, cpu_share=0.97) for c, s in found.speeds.items()})
    assert "machine was busy" not in markdown(quiet)
    case = found.entries[0].case
    speeds = quiet.speeds | {case: replace(quiet.speeds[case], cpu_share=0.31)}
    text = " ".join(markdown(replace(quiet, speeds=speeds)).split())
    assert f"The machine was busy: 1 of {len(speeds)} cases" in text
    assert "the lowest 31%" in text


def test_the_processors_clock_does_not_run_while_the_process_sleeps():
    clocks = [Clock(CPU, processor=processor) for processor in (True, False)]
    before = [clock.now() for clock in clocks]
    time.sleep(0.2)
    spent = [clock.now() - start for clock, start in zip(clocks, before, strict=True)]
    assert spent[0] < 0.1
    assert spent[1] >= 0.2


def test_attention_is_timed_within_its_pass():
    clock = Clock(CPU)

    def attend(_layer, q, _k, _v):
        return q

    timed = clock.timed(attend)
    started = clock.now()
    x = torch.ones(1)
    assert timed(0, x, x, x) is x
    assert 0 < clock.attended() <= clock.now() - started
    assert clock.attended() == 0


def test_peak_memory_is_what_the_work_held_and_not_what_was_there_before():
    """64 MiB before, 96 MiB held and given back within: the growth is 96."""
    before = torch.ones(64 << 18)
    with PeakWatch(CPU) as watch:
        held = torch.ones(96 << 18)
        del held
    del before
    if watch.growth is None:
        pytest.skip("this kernel does not reset the high-water mark")
    assert 95 << 20 < watch.growth < 120 << 20


def test_sharing_computes_the_prompt_once(weights):
    model = Counted(replace(TINY, context_len=128), weights, WORDS)
    found = measure_prefix(model, SMALL)
    prompt = prompt_tokens(SMALL)
    assert prompt == 64 - CONTINUATION
    computed = {(one.what, one.shared): one.computed for one in found}
    steps = SMALL.decode_tokens - 1  # the first token comes out of the prefill
    assert computed == {
        ("score", False): REQUESTS * (prompt + CONTINUATION - 1),
        ("score", True): prompt + REQUESTS * (CONTINUATION - 1),
        ("generate", False): REQUESTS * (prompt + steps),
        ("generate", True): prompt + REQUESTS * steps,
    }


@pytest.fixture(scope="module")
def found() -> Found:
    """A whole bench of the tiny shape."""
    return run_bench(read_subject("tiny", "auto", CPU), SMALL, CPU, lambda _text: None)


def test_every_case_is_measured_once_and_stands_in_its_parts(found):
    planned = entries(TINY, SMALL)
    assert list(found.entries) == planned
    assert found.speeds.keys() == {entry.case for entry in planned}
    assert len(found.speeds) < len(planned)


def test_the_saving_is_the_context_over_the_window(found):
    for part in ("window", "cache"):
        ratios = {line.entry.case.context: line.ratios["cache"] for line in lines(found, part)}
        assert ratios == {64: 4.0, 128: 8.0}
    assert [line.ratios["cache"] for line in lines(found, "gqa")] == [1, 2, 1, 2]


def test_json_names_every_number_and_claims_only_what_was_measured(found):
    document = as_json(found)
    assert claims(found) == [] == document["claims"]  # neither the paper's window nor its contexts
    row = document["rows"][1]
    assert (row["part"], row["label"], row["context"], row["window"]) == ("window", "16", 64, 16)
    assert row.keys() >= {"prefill", "attention", "decode", "cache_bytes", "peak_bytes", "passes"}
    assert row["cache_ratio"] == 4
    assert {one["what"] for one in document["shared_prefix"]} == {"score", "generate"}


def test_claims_stand_beside_the_papers(found):
    """At the paper's contexts and window, with speeds made up: twice and 1.5 times."""
    settings = replace(SMALL, contexts=(16384, 32768), window=4096, parts=("window", "cache"))
    speed = next(iter(found.speeds.values()))
    planned = entries(TINY, settings)
    speeds = {}
    for entry in planned:
        is_ours = entry.case.window == 4096 and entry.case.rolling
        speeds[entry.case] = replace(
            speed,
            prefill=150.0 if is_ours else 100.0,
            attention=200.0 if is_ours else 100.0,
            cache_bytes=1000 if is_ours else entry.case.context * 1000 // 4096,
        )
    stated = {
        claim.what: (claim.paper, claim.here)
        for claim in claims(
            replace(found, settings=settings, entries=tuple(planned), speeds=speeds)
        )
    }
    assert stated["cache at 32k tokens, W = 4096"] == ("8x smaller", "8.00x smaller")
    paper, here = stated["speed at 16k tokens, W = 4096"]
    assert paper.startswith("2x")
    assert here.startswith("attention 2.00x, prefill 1.50x")
