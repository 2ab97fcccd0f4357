"""What the engines' tests share: the tiny model opened once, and requests."""

from collections.abc import Iterator

import pytest
from lm_eval.api.instance import Instance

from mistral_eval.engines.interface import Request
from mistral_eval.engines.lm_eval_model import request_of
from mistral_eval.engines.native import NativeEngine, open_native
from tests.stub_server import BigramModel, Stub

TYPES = {
    "score": "loglikelihood",
    "rolling": "loglikelihood_rolling",
    "generate": "generate_until",
}


@pytest.fixture(scope="session")
def tiny() -> NativeEngine:
    return open_native("tiny")


@pytest.fixture(scope="session")
def made_up(tiny) -> BigramModel:
    """A distribution without weights, for servers."""
    return BigramModel(tiny.tokenizer)


@pytest.fixture
def stub(made_up) -> Iterator[Stub]:
    """A server that does everything well."""
    with Stub(made_up) as opened:
        yield opened


def instance(*arguments, task="task", doc_id=0, idx=0, kind="score") -> Instance:
    return Instance(TYPES[kind], {}, arguments, idx, metadata=(task, doc_id, 1))


@pytest.fixture(name="instance")
def fixture_instance():
    """The function that makes one of lm-eval's instances."""
    return instance


@pytest.fixture
def ask():
    """The function that makes a request: (*arguments, sample=0, task, doc_id, idx, kind)."""

    def make(*arguments, sample=0, **names) -> Request:
        return request_of(instance(*arguments, **names), sample)

    return make


@pytest.fixture
def again():
    """The function that makes an engine like another, but for its runner, seed or context."""

    def make(engine: NativeEngine, **changed) -> NativeEngine:
        names = ("runner", "tokenizer", "context_len", "seed", "identity")
        return NativeEngine(**{name: getattr(engine, name) for name in names} | changed)

    return make
