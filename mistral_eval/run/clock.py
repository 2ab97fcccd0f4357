"""How long the phases of a run took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the seconds of the `with` block under this name."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)
