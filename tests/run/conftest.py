"""What the harness's tests share: a machine that can isolate programs."""

import os

import pytest

from mistral_eval.record.replies import RepliesLog
from mistral_eval.sandbox import Isolation, probe


@pytest.fixture(scope="session")
def sandbox() -> Isolation:
    """Isolation for generated programs; skips where there is none, fails where it is required."""
    found = probe()
    if not found.available:
        if os.environ.get("MISTRAL_EVAL_REQUIRE_SANDBOX") == "1":
            pytest.fail(f"a sandbox is required here: {found.detail}")
        pytest.skip(f"no sandbox here: {found.detail}")
    return found


@pytest.fixture
def log(tmp_path):
    with RepliesLog(tmp_path) as opened:
        yield opened
