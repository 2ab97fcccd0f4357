"""Keys and values are counted in bytes, and fit what is free."""

from dataclasses import replace

import torch

from mistral_eval.engine.memory import bytes_per_token, cached_tokens, free_bytes


def test_mistral_7b_takes_128_kib_a_token(make_engine):
    """2 * 32 layers * 8 heads * 128 * 2 bytes."""
    shape = {"n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    config = replace(make_engine().model.config, **shape, sliding_window=(4096,) * 32)

    assert bytes_per_token(config, torch.bfloat16) == 128 * 1024


def test_cached_tokens_leave_most_of_the_free_memory(make_engine):
    config, cpu = make_engine().model.config, torch.device("cpu")
    tokens = cached_tokens(config, torch.float32, cpu)

    assert 0 < tokens * bytes_per_token(config, torch.float32) < 0.6 * free_bytes(cpu)
