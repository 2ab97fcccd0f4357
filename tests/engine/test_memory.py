"""Keys and values are counted in bytes, and fit what is free."""

from dataclasses import replace

import pytest
import torch

from mistral_eval.engine.memory import bytes_per_token, cached_tokens, free_bytes
from mistral_eval.model.shared_cache import Room, SharedCache, cache_bytes


def test_mistral_7b_takes_128_kib_a_token(make_engine):
    """2 * 32 layers * 8 heads * 128 * 2 bytes."""
    shape = {"n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    config = replace(make_engine().model.config, **shape, sliding_window=(4096,) * 32)

    assert bytes_per_token(config, torch.bfloat16) == 128 * 1024


def test_cached_tokens_leave_most_of_the_free_memory(make_engine):
    config, cpu = make_engine().model.config, torch.device("cpu")
    tokens = cached_tokens(config, torch.float32, cpu)

    assert 0 < tokens * bytes_per_token(config, torch.float32) < 0.6 * free_bytes(cpu)


@pytest.mark.parametrize("window", [8, None])
def test_a_shared_caches_bytes_are_known_before_it_is_made(make_engine, window):
    """Rings stop growing at the window."""
    model = make_engine(window=window).model
    room = Room(questions=3, samples=2, root=11, tail=5, new=20)
    cache = SharedCache(model, room)
    pairs = [*cache.root, *cache.tails, *cache.rings]
    held = sum(keys.nbytes + values.nbytes for keys, values in pairs)

    assert cache_bytes(model.config, room, model.dtype) == held
