"""What the protocol's tests share: lm-eval's tasks over the sample and over the real test sets."""

from collections.abc import Callable
from functools import cache

import golden_prompts
import pytest
from lm_eval.api.task import ConfigurableTask

from mistral_eval.data import make_source
from mistral_eval.run.questions import apply_template


@cache
def _sample_task(benchmark: str) -> ConfigurableTask:
    return golden_prompts.open_task(benchmark, make_source("sample"))


@pytest.fixture
def sample_task() -> Callable[[str], ConfigurableTask]:
    """Lm-eval's task over the bundled sample."""
    return _sample_task


@pytest.fixture
def shared_task(shared, monkeypatch) -> Callable[[str], ConfigurableTask]:
    """Lm-eval's task over the real test set; templates compiled once, or this takes minutes."""
    monkeypatch.setattr("lm_eval.utils.apply_template", apply_template)
    return lambda benchmark: golden_prompts.open_task(benchmark, make_source(str(shared / "data")))
