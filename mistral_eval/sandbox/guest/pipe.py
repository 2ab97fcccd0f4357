"""Messages over a pair of pipes: four bytes of length, then the bytes."""

import os
import struct

from .codec import FrameError, NotPlainError

MAX_FRAME = 16 << 20  # bytes of one message
_CHUNK = 1 << 12


class Pipe:
    """One side of the channel between a program and its checker."""

    def __init__(self, reading: int, writing: int) -> None:
        """Use the descriptors of the pipe to read from and of the pipe to write to."""
        self._reading = reading
        self._writing = writing
        self._ahead = b""  # read, but not returned yet

    def write(self, data: bytes) -> None:
        """Write one message.

        Raises:
            NotPlainError: The message is longer than MAX_FRAME.
            FrameError: The other side has closed the pipe.
        """
        if len(data) > MAX_FRAME:
            raise NotPlainError(f"a value of {len(data)} bytes; at most {MAX_FRAME} can cross")
        data = struct.pack(">I", len(data)) + data
        try:
            written = os.write(self._writing, data)
            while written < len(data):
                written += os.write(self._writing, data[written : written + (1 << 20)])
        except OSError as error:
            raise FrameError(f"closed: {error}") from error

    def read(self) -> bytes:
        """Read one message.

        Raises:
            FrameError: The pipe is closed, or the announced length is more than MAX_FRAME.
        """
        (length,) = struct.unpack(">I", self._take(4))
        if length > MAX_FRAME:
            raise FrameError(f"{length} bytes were announced; at most {MAX_FRAME} may come")
        return self._take(length)

    def close(self) -> None:
        """Close both pipes."""
        os.close(self._reading)
        os.close(self._writing)

    def _take(self, count: int) -> bytes:
        parts, missing = [self._ahead], count - len(self._ahead)
        while missing > 0:
            try:
                part = os.read(self._reading, max(_CHUNK, min(missing, 1 << 20)))
            except OSError as error:
                raise FrameError(f"closed: {error}") from error
            if not part:
                raise FrameError("closed")
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._ahead = data[count:]
        return data[:count]
