"""Read items in order, each in another thread while the one before it is in use."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Reads items 0 ... `count` - 1 again for every walk over them.

    While one is in use, the next is read; after the last one the first, for the next walk. So two
    are in memory, and one between walks.
    """

    def __init__(self, count: int, read: Callable[[int], Item], device: torch.device) -> None:
        """Take a function that reads an item onto `device`; nothing is read yet."""
        self._count = count
        self._read = read
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: tuple[int, Future[Item]] | None = None
        # copies on a stream of their own do not wait for the products of the layer in use
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in order.

        Raises:
            What reading an item raises.
        """
        for n in range(self._count):
            item = self._taken(n)
            self._begin((n + 1) % self._count)
            try:
                yield item
            finally:
                # its memory returns to the copies' stream, which does not wait for the products
                if self._stream is not None:
                    torch.cuda.current_stream(self._device).synchronize()
            del item

    def _taken(self, n: int) -> Item:
        """Return item `n`, which is most often the one being read ahead."""
        if self._ahead is None or self._ahead[0] != n:
            self._begin(n)
        assert self._ahead is not None
        _, future = self._ahead
        self._ahead = None  # so that a failure is not kept
        return future.result()

    def _begin(self, n: int) -> None:
        if self._ahead is not None:  # a walk that was not finished: let its item go first
            self._ahead[1].cancel()
        self._ahead = n, self._thread.submit(self._on_stream, n)

    def _on_stream(self, n: int) -> Item:
        if self._stream is None:
            return self._read(n)
        with torch.cuda.stream(self._stream):
            item = self._read(n)
            self._stream.synchronize()
        return item
