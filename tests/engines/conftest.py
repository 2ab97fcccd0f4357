"""What the backends' tests share: the tiny model opened once, and lm-eval's instances."""

import pytest
from lm_eval.api.instance import Instance

from mistral_eval.engines.interface import Ask
from mistral_eval.engines.native import NativeBackend
from mistral_eval.engines.open_native import open_native


@pytest.fixture(scope="session")
def tiny() -> NativeBackend:
    return open_native("tiny")


def instance(*arguments, task="task", doc_id=0, idx=0, kind="loglikelihood") -> Instance:
    return Instance(kind, {}, arguments, idx, metadata=(task, doc_id, 1))


@pytest.fixture(name="instance")
def fixture_instance():
    """The function that makes one of lm-eval's instances."""
    return instance


@pytest.fixture
def ask():
    """The function that makes an Ask: (*arguments, sample=0, task, doc_id, idx, kind)."""

    def make(*arguments, sample=0, **names) -> Ask:
        return Ask(instance(*arguments, **names), sample)

    return make
