"""The durable record of a run's replies: one SQLite file, one row per request.

A reply counts only after it is here. The key says which reply a request may be given: the model's
fingerprint (weights, tokenizer, dtype, engine), the token ids (or the text, for engines that speak
text), the generation settings and, for a sampled reply, the seed and the sample's name. So a run
that stopped goes on where it stopped, and no model is ever given another model's answer. Each row
has a checksum: what a disk spoilt is never read as a reply, and what it spared is recovered.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mistral_eval.errors import JournalError
from mistral_eval.record.journal_file import (
    READ,
    append,
    checked,
    count_noted,
    open_file,
    plain_errors,
)

COMMIT_ROWS = 4096
COMMIT_SECONDS = 0.5
LOOKUP_ROWS = 500  # rows per SELECT; SQLite's own limit on variables is higher


def request_key(fingerprint: str, kind: str, *parts: object) -> bytes:
    """The 32-byte name of a request: equal exactly when the same reply may be given.

    Texts and token ids are hashed as their bytes, since a prompt has thousands of them; what is
    left, a few settings, as JSON. Kind and length before each part keep the parts apart.
    """
    digest = hashlib.sha256()
    for part in (fingerprint, kind, *parts):
        mark, content = _bytes_of(part)
        digest.update(b"%c%d:" % (mark, len(content)))
        digest.update(content)
    return digest.digest()


def _bytes_of(part: object) -> tuple[bytes, bytes]:
    """What kind of part it is (text, ids or JSON), and its content."""
    if isinstance(part, str):
        return b"t", part.encode("utf-8", "surrogatepass")
    if isinstance(part, tuple | list):
        with contextlib.suppress(TypeError, OverflowError):  # no ids
            return b"i", array("I", part).tobytes()
    text = json.dumps(part, ensure_ascii=True, separators=(",", ":"))
    return b"j", text.encode("ascii")


class Journal:
    """Replies by key, written in batches; one process at a time.

    A damaged journal is put aside and what can be read of it goes on in a new one; `recovered` says
    so in a sentence.

    Args:
        path: the SQLite file; made if absent.

    Raises:
        JournalError: the file is no journal, of another version, or in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _take_lock(path.with_suffix(".lock"))
        self._pending: list[tuple[bytes, bytes]] = []
        self._last_commit = time.monotonic()
        self.written = 0
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        try:
            opened = open_file(path, count_noted(path))
            self._db, self._rows, self._last = opened.db, opened.rows, opened.last
            self.recovered = opened.recovered
            self._note()
        except BaseException:
            self._release()
            raise

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The replies already known among `keys`."""
        rows = sorted({self._rows[key] for key in keys if key in self._rows})
        found: dict[bytes, Any] = {}
        with plain_errors(self.path):
            for start in range(0, len(rows), LOOKUP_ROWS):
                part = rows[start : start + LOOKUP_ROWS]
                query = f"{READ} WHERE rowid IN ({','.join('?' * len(part))})"
                for _, key, reply, kept in self._db.execute(query, part):
                    found[key] = checked(key, reply, kept)
        return found

    def put(self, key: bytes, reply: Mapping[str, Any]) -> None:
        """Remember a reply; it is durable after the next commit, at the latest at `flush`."""
        self._pending.append((key, self._encode(reply).encode("ascii")))
        due = time.monotonic() - self._last_commit > COMMIT_SECONDS
        if len(self._pending) >= COMMIT_ROWS or due:
            self.flush()

    def flush(self) -> None:
        """Make everything that was put durable."""
        if self._pending:
            with plain_errors(self.path):
                self._rows |= append(self._db, self._pending, self._last)
            self._last += len(self._pending)
            self.written += len(self._pending)
            self._pending.clear()
            self._note()
        self._last_commit = time.monotonic()

    def count(self) -> int:
        """How many replies are durable; no `__len__`, since an empty journal is not no journal."""
        return len(self._rows)

    def fold(self) -> None:
        """Flush and fold the write-ahead log into the one file, which can then be moved."""
        self.flush()
        with contextlib.suppress(sqlite3.OperationalError):  # somebody reads: the log stays
            self._db.execute("PRAGMA journal_mode=DELETE")

    def close(self) -> None:
        """Fold, and let others in."""
        try:
            self.fold()
        finally:
            try:
                with plain_errors(self.path):
                    self._db.close()
            finally:
                self._release()

    def _note(self) -> None:
        """Keep beside the file how many replies it holds: a damaged one cannot tell any more."""
        with contextlib.suppress(OSError):  # a full disk: the number only helps a sentence
            os.pwrite(self._lock, f"{len(self._rows):12}\n".encode(), 0)

    def _release(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _take_lock(path: Path) -> int:
    """An exclusive advisory lock, released when its process ends however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise JournalError(
            f"Another process is working on the run in {path.parent}. Wait for it, stop it, or "
            "give this run another folder with --output-path."
        ) from None
    return handle
