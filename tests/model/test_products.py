"""Every way to multiply gives the plain product; a model in any of them gives the same logits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mistral_eval.model import products
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.lm_head import LMHead
from mistral_eval.model.products import (
    FEW_ROWS,
    HEAD,
    Matrix,
    Way,
    is_in_library,
    largest,
    possible_ways,
    rounded_rows,
    shape_class,
)
from mistral_eval.model.tiny import make_tiny
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.choose_products import shapes_of

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


def cases():
    return [(dtype, way) for dtype in DTYPES for way in possible_ways(dtype, CPU)]


@pytest.mark.parametrize(("dtype", "way"), cases())
@pytest.mark.parametrize("rows", [1, FEW_ROWS - 1, FEW_ROWS, 130])
def test_a_way_gives_the_plain_product(dtype, way, rows):
    generator = torch.Generator().manual_seed(0)
    x, w, y = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((rows, 72), (100, 72), (rows, 100))
    )
    exact = x.double() @ w.double().t()
    matrix = Matrix(w, {shape_class(100, 72): (way, way)})
    tolerance = {"atol": 1e-4 if dtype == torch.float32 else 0.3, "rtol": 0}

    assert matrix.is_packed == (way is Way.PACKED)
    found = matrix.times(x, torch.empty(rows, 100, dtype=dtype))
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), exact, **tolerance)
    added = y.clone()
    matrix.add_to(added, x)
    torch.testing.assert_close(added.double(), y.double() + exact, **tolerance)
    gate = matrix.gate(x, torch.empty(rows, 100, dtype=dtype))
    torch.testing.assert_close(gate.double(), torch.nn.functional.silu(exact), **tolerance)
    gated = matrix.gating(y.clone(), x, torch.empty(rows, 100, dtype=dtype))
    torch.testing.assert_close(
        gated.double(), y.double() * exact, atol=tolerance["atol"], rtol=0.02
    )


@pytest.mark.parametrize(("dtype", "way"), cases())
def test_a_model_gives_the_same_logits_in_every_way(dtype, way):
    made = make_tiny()
    weights = {name: tensor.to(dtype) for name, tensor in made.weights.items()}
    head = Way.PLAIN if way is Way.PACKED else way
    ways = dict.fromkeys(shapes_of(made.config), (way, way)) | {HEAD: (head, head)}
    ids = torch.arange(3, 90)
    logits = []
    for chosen in ({}, ways):
        model = Transformer(made.config, weights, 32000, chosen)
        attend = SequencesAttend([len(ids)], made.config.sliding_window, dtype, CPU)
        logits.append(model.logits(model.hidden(ids, torch.arange(len(ids)), attend)))

    plain, found = logits
    difference = (found - plain).abs()
    if dtype == torch.float32:
        assert difference.max() < 1e-4
    else:  # rounded once more, where a product is added
        assert difference.mean() < 0.02 * plain.std()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [100, 2048, 5000])
def test_an_lm_head_is_packed_unless_its_weights_are_the_embeddings(dtype, words):
    if Way.PACKED not in possible_ways(dtype, CPU):
        pytest.skip("this processor has no packed products of the dtype")
    generator = torch.Generator().manual_seed(2)
    weight, hidden = (
        torch.randn(rows, 64, generator=generator).to(dtype) for rows in (words, FEW_ROWS + 1)
    )
    ways = {HEAD: (Way.LEFT, Way.PLAIN)}
    ways |= {shape_class(out, 64): (Way.PACKED, Way.PACKED) for out in (100, 1666, 2048)}
    exact = hidden.double() @ weight.double().t()
    tolerance = {"atol": 1e-4 if dtype == torch.float32 else 0.3, "rtol": 0}
    for is_tied in (True, False):
        head = LMHead(weight, ways, is_tied=is_tied)
        assert all(matrix.is_packed != is_tied for _, matrix in head._tiles)
        for rows in (1, len(hidden)):
            found = head.logits(hidden[:rows])
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact[:rows], **tolerance)
            tiles = list(head.tiles(hidden[:rows], 3000))
            assert [first for first, _ in tiles] == list(range(0, words, tiles[0][1].shape[1]))
            assert torch.equal(torch.cat([tile for _, tile in tiles], dim=1), found)


def test_without_the_private_operators_the_plain_ways_are_left(monkeypatch):
    class Bare:
        """torch.ops.mkldnn of another torch: none of the operators."""

    monkeypatch.setattr(products, "_LIBRARY", Bare())

    assert not is_in_library(torch.float32, CPU)
    assert possible_ways(torch.float32, CPU) == (Way.PLAIN, Way.LEFT)
    assert possible_ways(torch.float16, CPU) == (Way.PLAIN,)
    assert possible_ways(torch.float32, torch.device("cuda")) == (Way.PLAIN,)


def test_onednn_sees_few_numbers_of_rows():
    """At most a seventh more rows than asked, from 48 on; each number is a kernel in memory."""
    seen = {rounded_rows(rows) for rows in range(1, 2049)}

    assert len(seen) <= 51
    assert all(rounded_rows(rows) == rows for rows in seen)
    assert all(rows <= rounded_rows(rows) <= rows * 8 / 7 for rows in range(48, 2049))
    assert all(rounded_rows(rows) < 2 * rows for rows in range(1, 48))
    assert rounded_rows(0) == 0


GROWTH = """
import resource, sys
import torch
from mistral_eval.model.products import Matrix, Way, limit_kernels, shape_class

def resident():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * resource.getpagesize() / 1e6

limit_kernels()
torch.set_num_threads(1)
way = Way(sys.argv[1])
w = torch.randn(192, 128)
matrix = Matrix(w, {shape_class(192, 128): (way, way)})
x = torch.randn(600, 128)
matrix.times(x)
before = resident()
for rows in range(1, 600):
    matrix.times(x[:rows])
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own accounting")
@pytest.mark.parametrize("way", possible_ways(torch.float32, CPU))
def test_memory_does_not_grow_with_every_new_number_of_rows(way):
    """600 numbers of rows: without rounding, a kernel for each took 300 MB."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, way], capture_output=True, check=True, text=True
    )
    assert float(done.stdout) < 60


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 32000, 40000 - 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_of_a_row_is_found_and_of_equals_the_first(columns, dtype):
    """With ties, infinities and strided rows."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-9, 9, (40, columns + 5), generator=generator).to(dtype)[:, :columns]
    x[1], x[2, -1], x[3, 0] = -torch.inf, torch.inf, torch.inf
    values, indices = largest(x)
    for row, value, index in zip(x.tolist(), values.tolist(), indices.tolist(), strict=True):
        assert value == max(row)
        assert index == row.index(value)


def test_what_is_not_a_number_is_the_largest():
    x = torch.zeros(2, 300)
    x[1, 200] = torch.nan
    values, indices = largest(x)
    assert indices.tolist() == [0, 200]
    assert values.isnan().tolist() == [False, True]
