"""What several tests share: the real test sets where they exist."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real test sets and transcripts beside the checkout; skips where they are absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real test sets in {SHARED.name}/ beside the checkout")
    return SHARED
