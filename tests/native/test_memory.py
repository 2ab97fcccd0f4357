"""Keys and values are counted in bytes, and fit what is free."""

import sys
from dataclasses import replace

import pytest
import torch

from mistral_eval.model.config import Experts
from mistral_eval.model.memory import free_bytes, status_bytes, total_bytes
from mistral_eval.model.shared_cache import Row, SharedCache, Storage, cache_bytes, tail_size
from mistral_eval.native.pack_attention import Stack, stack_bytes
from mistral_eval.native.runner import (
    bytes_per_token,
    cached_tokens,
    default_batch_tokens,
    pass_bytes,
    pass_tokens,
)


def test_mistral_7b_takes_128_kib_a_token(make_engine):
    """2 * 32 layers * 8 heads * 128 * 2 bytes."""
    shape = {"n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    config = replace(make_engine().model.config, **shape, sliding_window=(4096,) * 32)

    assert bytes_per_token(config, torch.bfloat16) == 128 * 1024


def test_cached_tokens_leave_most_of_the_free_memory(make_engine):
    config, cpu = make_engine().model.config, torch.device("cpu")
    tokens = cached_tokens(config, torch.float32, cpu)

    assert 0 < tokens * bytes_per_token(config, torch.float32) < 0.6 * free_bytes(cpu)


@pytest.mark.parametrize("window", [8, 40, None])
def test_a_shared_caches_bytes_are_known_before_it_is_made(make_engine, window):
    """Rows stop growing at the window; every place of a slab is as large as the first."""
    model = make_engine(window=window).model
    cache = SharedCache(model)
    root = cache.add_root(11)
    prompt = cache.add_prompt(root, 5)
    row = Row(prompt)
    for row.length in range(100):
        cache.extend([row])
    slabs = [prompt.slab, *(cache.segment(level) for level in range(len(row.segments)))]
    own = sum(x[0].nbytes for slab in slabs for x in (*slab.keys, *slab.values))
    held = own + sum(x.nbytes for x in (*root.keys, *root.values))

    assert cache_bytes(model.config, 11 + tail_size(5), [100], model.dtype) == held


@pytest.mark.skipif(sys.platform != "linux", reason="madvise(MADV_DONTNEED) frees memory on Linux")
def test_a_freed_places_memory_goes_back_to_the_system(make_engine):
    """Long replies come and go; without this, what they ever took would stay."""
    model = make_engine(window=None).model
    cache = SharedCache(model, rows=64, slots=64 * 4096)
    root = cache.add_root(0)
    before = status_bytes("RssAnon")
    rows = [Row(cache.add_prompt(root, 1)) for _ in range(64)]
    for row in rows:
        for row.length in (0, 32, 64, 128, 256, 512, 1024, 2048):
            cache.extend([row])
    for slab in map(cache.segment, range(8)):
        for stored in (*slab.keys, *slab.values):
            stored.fill_(1.0)
    taken = status_bytes("RssAnon") - before

    for row in rows:
        cache.drop_row(row)

    held = status_bytes("RssAnon") - before
    assert taken > 8 << 20
    assert held < taken / 20


def test_a_places_neighbours_keep_their_values_when_it_is_freed():
    """Places need not begin or end where a page does."""
    like = torch.empty(0)
    storage = Storage(9, (3, 700), like)
    storage.tensor[:] = torch.arange(9.0).view(9, 1, 1)

    storage.release(4)

    kept = [n for n in range(9) if n != 4]
    assert all((storage.tensor[n] == n).all() for n in kept)


SEVEN_B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "hidden_dim": 14336}


@pytest.mark.parametrize(
    ("dtype", "gib", "expected"),
    [
        (torch.float32, 64, 1024),
        (torch.bfloat16, 64, 2048),  # products are faster and want more rows
        (torch.bfloat16, 14, 128),  # beside 13.5 GiB of weights
        (torch.float32, 1, 64),  # the weights alone do not fit: that is said elsewhere
    ],
)
def test_a_pass_takes_what_is_fast_and_less_where_memory_is_short(
    make_engine, monkeypatch, dtype, gib, expected
):
    config = replace(
        make_engine().model.config,
        **SEVEN_B,
        head_dim=128,
        vocab_size=32000,
        context_len=8192,
        sliding_window=(4096,) * 32,
    )
    cpu = torch.device("cpu")
    monkeypatch.setattr("mistral_eval.native.runner.total_bytes", lambda _: gib << 30)

    tokens = default_batch_tokens(config, dtype, cpu)

    assert tokens == expected
    assert tokens == 64 or tokens * pass_bytes(config, dtype) <= 0.2 * (gib << 30)
    assert tokens == 64 or tokens <= pass_tokens(config, dtype, cpu)


def test_a_passs_bytes_cover_the_experts_rows(make_engine):
    """All tokens may choose one expert: gathered rows, gate, up and output of `hidden_dim`."""
    config = replace(make_engine().model.config, experts=Experts(8, 2))
    own = 2 * config.dim + 2 * config.hidden_dim

    assert pass_bytes(config, torch.float32) - own * 4 >= 4 * (3 * config.dim + config.hidden_dim)


def test_a_passs_bytes_cover_its_workspace(make_engine):
    """At least what the model really keeps for a token."""
    model = make_engine().model
    model.hidden(torch.tensor([3]), torch.tensor([0]), _SeesItself())
    space = vars(model._space).values()
    kept = {id(x): x.nbytes for x in space if isinstance(x, torch.Tensor)}

    assert sum(kept.values()) <= pass_bytes(model.config, model.dtype)


def test_a_stacks_bytes_are_known_before_it_is_made(make_engine):
    """The path for all layers, path and pack for one."""
    model = make_engine().model
    stack = Stack(model, 40, 16)
    held = sum(x.nbytes for x in vars(stack).values() if isinstance(x, torch.Tensor))

    assert stack_bytes(model.config, model.dtype, 40, 16) == held


def test_the_machines_memory_is_no_less_than_what_is_free():
    cpu = torch.device("cpu")

    assert total_bytes(cpu) >= free_bytes(cpu)


class _SeesItself:
    """Attention of one token: the value of its own key."""

    def __call__(self, layer, q, k, v):
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
