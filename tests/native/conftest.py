"""Toy weights: two layers, grouped heads, a window of 8, 61 words: every test in milliseconds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.native.runner import ModelRunner

N_WORDS = 61
EOS = 2


def toy_config(window: int | None = 8) -> ModelConfig:
    return ModelConfig(
        dim=32,
        n_layers=2,
        head_dim=8,
        hidden_dim=48,
        n_heads=4,
        n_kv_heads=2,
        norm_eps=1e-5,
        vocab_size=64,
        rope_theta=10000.0,
        context_len=96,
        sliding_window=(window, window),
    )


def toy_weights(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights large enough that logits differ by whole units and draws are not all ties."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 1 + 0.1 * torch.randn(shape, generator=generator)
        if len(shape) == 1
        else 0.3 * torch.randn(shape, generator=generator)
        for name, shape in expected_shapes(config).items()
    }


def toy_engine(batch_tokens: int | None = None, window: int | None = 8) -> ModelRunner:
    config = toy_config(window)
    return ModelRunner(
        config, toy_weights(config), n_words=N_WORDS, eos_ids=(EOS,), batch_tokens=batch_tokens
    )


@pytest.fixture(name="make_engine", scope="session")
def fixture_make_engine():
    """The function that builds a toy engine: (batch_tokens=None, window=8)."""
    return toy_engine


@pytest.fixture(name="make_mixed_engine", scope="session")
def fixture_make_mixed_engine():
    """A toy engine whose first layer has a window of 5 and whose second has none."""

    def build(batch_tokens: int | None = None) -> ModelRunner:
        config = replace(toy_config(), sliding_window=(5, None))
        return ModelRunner(
            config, toy_weights(config), n_words=N_WORDS, eos_ids=(EOS,), batch_tokens=batch_tokens
        )

    return build


@pytest.fixture(name="make_weights", scope="session")
def fixture_make_weights():
    """The function that gives a toy engine's weights, which a test may spoil: (config)."""
    return toy_weights
