"""Which requests to a server failed, and when the server counts as gone."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.engines.http_client import ServerError
from mistral_eval.errors import EngineError
from mistral_eval.native.requests import Stop

FAILURES: Final = 8  # requests that fail one after the other before the server counts as gone


class Failures:
    """What failed of the requests of one call, and whether others should still be asked.

    Args:
        most: how many may fail one after the other before the server counts as gone.
        stop: tells whether the user wants to stop; then failures say nothing of the server.

    Attributes:
        found: index and reason of each request that failed.
        in_a_row: how many failed since the last reply.
        ending: why no other request is asked; None if they are.
    """

    def __init__(self, most: int, stop: Stop) -> None:
        self.found: list[tuple[int, str]] = []
        self.in_a_row = 0
        self.ending: EngineError | None = None
        self._most = most
        self._stop = stop

    def ends(self) -> bool:
        """Return whether no other request should be asked."""
        return self.ending is not None or self._stop()

    def add(self, indices: Sequence[int], error: EngineError) -> None:
        """Add requests that failed together."""
        self.found += [(index, str(error)) for index in indices]
        self.in_a_row += not _is_of_one(error)
        if self.ends():
            return
        if _is_of_all(error):
            self.ending = error
        elif self.in_a_row >= self._most:
            self.ending = EngineError(
                f"The last {self.in_a_row} requests failed: {error} Earlier replies are kept: run "
                "the same command again to resume."
            )


def _is_of_one(error: EngineError) -> bool:
    """Return whether a failure says nothing about other requests, e.g. one that is too long."""
    return isinstance(error, ServerError) and error.status in (400, 413, 422)


def _is_of_all(error: EngineError) -> bool:
    """Return whether every other request would fail too; 403 may be a filter's word on one text."""
    return isinstance(error, ServerError) and error.is_fatal and error.status != 403
