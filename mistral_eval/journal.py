"""The durable record of a run's replies: one SQLite file, one row per request.

A reply counts only after it is here. The key says which reply a request may be given: the model's
fingerprint (weights, tokenizer, dtype, engine), the token ids (or the text, for engines that speak
text), the generation settings and, for a sampled reply, the seed and the sample's name. So a run
that stopped goes on where it stopped, and no model is ever given another model's answer.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mistral_eval.errors import JournalError

APPLICATION_ID = 0x4D45564A  # "MEVJ", in the file's header: `file` and we know it again
SCHEMA_VERSION = 1
COMMIT_ROWS = 512
COMMIT_SECONDS = 2.0
LOOKUP_ROWS = 500  # keys per SELECT; SQLite's own limit on variables is higher

# One transaction: a file that was being made when its process died is empty, not half a journal.
SCHEMA = f"""
BEGIN;
CREATE TABLE replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id={APPLICATION_ID};
PRAGMA user_version={SCHEMA_VERSION};
COMMIT;
"""


def request_key(fingerprint: str, kind: str, *parts: object) -> bytes:
    """The 32-byte name of a request: equal exactly when the same reply may be given."""
    text = json.dumps([fingerprint, kind, *parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).digest()


class Journal:
    """Replies by key, written in batches; one process at a time.

    Args:
        path: the SQLite file; made if absent.

    Raises:
        JournalError: the file is no journal, of another version, damaged, or in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _take_lock(path.with_suffix(".lock"))
        self._pending: list[tuple[bytes, str]] = []
        self._last_commit = time.monotonic()
        self.written = 0
        try:
            self._db = _open(path)
        except BaseException:
            self._release()
            raise

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The replies already known among `keys`."""
        found: dict[bytes, Any] = {}
        unique = list(dict.fromkeys(keys))
        with _plain_errors(self.path):
            for start in range(0, len(unique), LOOKUP_ROWS):
                part = unique[start : start + LOOKUP_ROWS]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, reply FROM replies WHERE key IN ({marks})"  # noqa: S608 - only question marks
                found.update(
                    (key, json.loads(reply)) for key, reply in self._db.execute(query, part)
                )
        return found

    def put(self, key: bytes, reply: Mapping[str, Any]) -> None:
        """Remember a reply; it is durable after the next commit, at the latest at `flush`."""
        self._pending.append((key, json.dumps(reply, separators=(",", ":"))))
        due = time.monotonic() - self._last_commit > COMMIT_SECONDS
        if len(self._pending) >= COMMIT_ROWS or due:
            self.flush()

    def flush(self) -> None:
        """Make everything that was put durable."""
        if self._pending:
            with _plain_errors(self.path), self._db:
                self._db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", self._pending)
            self.written += len(self._pending)
            self._pending.clear()
        self._last_commit = time.monotonic()

    def count(self) -> int:
        """How many replies are durable. (No `__len__`: an empty journal is not no journal.)"""
        with _plain_errors(self.path):
            return int(self._db.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Flush, fold the write-ahead log into the one file, and let others in."""
        try:
            self.flush()
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads: the log stays
                self._db.execute("PRAGMA journal_mode=DELETE")
            with _plain_errors(self.path):
                self._db.close()
        finally:
            self._release()

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


class _plain_errors:  # noqa: N801 - reads as a statement: `with _plain_errors(path):`
    """Turns SQLite's errors into a sentence that says where the replies are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, sqlite3.Error):
            raise JournalError(
                f"The journal {self.path} cannot be read or written ({error}). Replies written "
                "before are still in that file; free some space or move the file aside, then run "
                "the same command again."
            ) from error


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


def _open(path: Path) -> sqlite3.Connection:
    is_new = not path.exists() or path.stat().st_size == 0
    with _plain_errors(path):
        db = sqlite3.connect(path, isolation_level="DEFERRED")
        if is_new:
            db.executescript(SCHEMA)
        else:
            _check(db, path)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Recognise a foreign, newer or damaged file instead of misreading it."""
    try:
        found = (_pragma(db, "application_id"), _pragma(db, "user_version"))
        healthy = db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.DatabaseError as error:
        db.close()
        raise JournalError(
            f"{path} should be this run's journal, but SQLite cannot read it ({error}). Move it "
            "aside, or start again with --fresh."
        ) from error
    if found != (APPLICATION_ID, SCHEMA_VERSION):
        db.close()
        raise JournalError(
            f"{path} is not a journal of this version: expected application id "
            f"{APPLICATION_ID:#x} and schema {SCHEMA_VERSION}, found {found[0]:#x} and {found[1]}. "
            "Move it aside, or start again with --fresh."
        )
    if not healthy:
        db.close()
        raise JournalError(
            f"The journal {path} is damaged. Move it aside, or start again with --fresh."
        )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
