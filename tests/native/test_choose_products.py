"""How to multiply is measured once per machine, kept, and given back to a resumed run."""

import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
import torch

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.model.products import HEAD, Way, possible_ways
from mistral_eval.model.tiny import TINY_CONFIG
from mistral_eval.native import choose_products
from mistral_eval.native.choose_products import as_text, choose_ways, measured, parsed, shapes_of
from mistral_eval.record.run_record import read_run
from mistral_eval.run.opening import run_folder
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings

QUIET = Talk(quiet=True)
CPU = torch.device("cpu")
F32 = torch.float32


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mistral_eval" / "products.json"


def test_a_choice_is_measured_once_and_kept(cache, monkeypatch):
    first = choose_ways(TINY_CONFIG, F32, CPU)
    assert set(first) == set(shapes_of(TINY_CONFIG))
    monkeypatch.setattr(choose_products, "measured", lambda *_: pytest.fail("measured again"))
    assert choose_ways(TINY_CONFIG, F32, CPU) == first
    [kept] = json.loads(cache.read_text()).values()
    assert kept == as_text(first)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_file_is_measured_again(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert set(choose_ways(TINY_CONFIG, F32, CPU)) == set(shapes_of(TINY_CONFIG))


def test_where_nothing_can_be_kept_a_run_goes_on(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(choose_ways(TINY_CONFIG, F32, CPU)) == set(shapes_of(TINY_CONFIG))


def test_the_fastest_way_is_taken_if_it_is_clearly_faster(monkeypatch):
    """By a clock that the ways move: oneDNN's packed product is the best with many rows."""
    now = [0.0]
    cost = {Way.PLAIN: 4, Way.LEFT: 3.9, Way.LIBRARY: 3, Way.PACKED: 2}

    def multiply(x, w, way, out):
        now[0] += cost[way] / 1000

    monkeypatch.setattr(choose_products, "process_time", lambda: now[0])
    monkeypatch.setattr(choose_products, "multiplied", multiply)
    possible = [way for way in Way if way in possible_ways(F32, CPU)]
    found = measured({"8x8": (8, 8), HEAD: (9, 8)}, F32, possible)
    if Way.PACKED in possible:
        assert found == {
            "8x8": (Way.PACKED, Way.PACKED),
            HEAD: (Way.LIBRARY, Way.LIBRARY),  # never packed
        }
    cost |= {Way.LIBRARY: 3.9, Way.PACKED: 3.9}  # within what measuring is worth
    assert set(measured({"8x8": (8, 8)}, F32, possible).values()) == {(Way.PLAIN, Way.PLAIN)}
    cost[Way.PLAIN] = 2000  # two seconds a product: no time for a second shape
    assert list(measured({"8x8": (8, 8), "9x9": (9, 9)}, F32, possible)) == ["8x8"]


@pytest.mark.parametrize(
    ("few", "many", "packs"),
    [
        (0.5, 1.0, True),  # reading the weights is faster: generation's steps are
        (1.0, 0.9, True),
        (1.0, 1.0, False),  # as good as what needs no copy
        (0.5, 1.05, False),  # scoring would be slower
        (0.5, 1.01, True),  # as good
        (1.1, 0.5, False),
    ],
)
def test_weights_are_packed_if_that_gains_and_never_loses(few, many, packs):
    times = [dict.fromkeys(Way, 1.0) | {Way.PACKED: share} for share in (few, many)]
    assert choose_products._packs(*times) == packs


def test_a_tied_head_has_ways_of_its_own():
    """It is not packed, unlike a matrix of its shape."""
    untied = replace(TINY_CONFIG, tied_embeddings=False, vocab_size=32000, dim=96)
    assert HEAD not in shapes_of(untied)
    assert "96x1024" in shapes_of(untied)
    assert HEAD in shapes_of(replace(untied, tied_embeddings=True))


def test_a_recorded_choice_of_other_matrices_is_none():
    other = {HEAD: "plain/plain", "7x7": "plain/plain"}  # tiny's head is not tied
    assert set(choose_ways(TINY_CONFIG, F32, CPU, other)) == set(shapes_of(TINY_CONFIG))


def test_a_choice_by_another_rule_is_not_used(cache, monkeypatch):
    choose_ways(TINY_CONFIG, F32, CPU)
    before = set(json.loads(cache.read_text()))
    monkeypatch.setattr(choose_products, "_RULE", -1)
    choose_ways(TINY_CONFIG, F32, CPU)
    assert len(set(json.loads(cache.read_text())) - before) == 1


def test_measuring_takes_about_a_second_at_most():
    start = process_time()
    measured(shapes_of(TINY_CONFIG), F32, possible_ways(F32, CPU))
    assert process_time() - start < 30  # one second where the machine is not shared


def test_ways_that_are_not_possible_here_are_not_taken():
    texts = {"a": "packed/packed", "b": "plain/left", "c": "plain", "d": "plain/fast"}
    assert parsed(texts, (Way.PLAIN, Way.LEFT)) == {"b": (Way.PLAIN, Way.LEFT)}
    assert parsed(None, (Way.PLAIN,)) == {}


@pytest.mark.parametrize("content", ["", "[1]", "7", "null", "{", '{"head": 3}'])
def test_a_damaged_file_of_choices_is_written_again(tmp_path, content):
    settings = RunSettings(
        tasks=("winogrande",), model="tiny", data="sample", output_path=tmp_path / "results"
    )
    folder = run_folder(settings, make_source("sample"))
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(content)
    assert run_suite(settings, QUIET) == folder
    assert set(json.loads((folder / "engine.json").read_text())) <= set(shapes_of(TINY_CONFIG))


def test_a_resumed_run_takes_the_choice_that_it_began_with(tmp_path):
    """Whatever would be measured by then; run.json keeps it."""
    settings = RunSettings(
        tasks=("winogrande",), model="tiny", data="sample", output_path=tmp_path / "results"
    )
    folder = run_suite(settings, QUIET)
    began = json.loads((folder / "engine.json").read_text())
    assert read_run(folder)["settings"]["choices"] == began
    other = dict.fromkeys(began, "left/left")
    (folder / "engine.json").write_text(json.dumps(other))
    (folder / "run.json").unlink()  # as if it had been stopped
    assert run_suite(settings, QUIET) == folder
    assert read_run(folder)["settings"]["choices"] == other
