"""Every way to multiply gives the plain product; a model in any of them gives the same logits."""

import pytest
import torch

from mistral_eval.model import products
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.products import (
    FEW_ROWS,
    Matrix,
    Way,
    is_in_library,
    possible_ways,
    shape_class,
)
from mistral_eval.model.tiny import make_tiny
from mistral_eval.model.transformer import HEAD, Transformer
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
    added = matrix.added_to(y.clone(), x)
    torch.testing.assert_close(added.double(), y.double() + exact, **tolerance)
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


def test_without_the_private_operators_the_plain_ways_are_left(monkeypatch):
    class Bare:
        """torch.ops.mkldnn of another torch: none of the operators."""

    monkeypatch.setattr(products, "_LIBRARY", Bare())

    assert not is_in_library(torch.float32, CPU)
    assert possible_ways(torch.float32, CPU) == (Way.PLAIN, Way.LEFT)
    assert possible_ways(torch.float16, CPU) == (Way.PLAIN,)
    assert possible_ways(torch.float32, torch.device("cuda")) == (Way.PLAIN,)
