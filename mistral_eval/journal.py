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
import itertools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mistral_eval.errors import JournalError
from mistral_eval.journal_pages import checksum, readable_rows

APPLICATION_ID = 0x4D45564A  # "MEVJ", in the file's header: `file` and we know it again
SCHEMA_VERSION = 2
COMMIT_ROWS = 512
COMMIT_SECONDS = 2.0
ASIDE = "Move it aside, or start again with --fresh."
LOOKUP_ROWS = 500  # keys per SELECT; SQLite's own limit on variables is higher

# One transaction: a file that was being made when its process died is empty, not half a journal.
SCHEMA = f"""
BEGIN;
CREATE TABLE replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL, checksum INTEGER NOT NULL)
  WITHOUT ROWID;
PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};
COMMIT;
"""


def request_key(fingerprint: str, kind: str, *parts: object) -> bytes:
    """The 32-byte name of a request: equal exactly when the same reply may be given."""
    text = json.dumps([fingerprint, kind, *parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).digest()


def read_replies(db: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Any]:
    """The replies to `keys` that a journal's database has.

    Raises:
        sqlite3.DatabaseError: a row is not what was written.
    """
    found: dict[bytes, Any] = {}
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), LOOKUP_ROWS):
        part = unique[start : start + LOOKUP_ROWS]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, CAST(reply AS BLOB), checksum FROM replies WHERE key IN ({marks})"  # noqa: S608 - only question marks
        for key, reply, kept in db.execute(query, part):
            if checksum(key, reply) != kept:
                raise sqlite3.DatabaseError("a reply's checksum does not fit")
            found[key] = json.loads(reply)
    return found


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
        self.recovered: str | None = None
        try:
            self._db, self.recovered = _open(path, count_noted(path))
            self._durable = self.count()
            self._note()
        except BaseException:
            self._release()
            raise

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The replies already known among `keys`."""
        with _plain_errors(self.path):
            return read_replies(self._db, keys)

    def put(self, key: bytes, reply: Mapping[str, Any]) -> None:
        """Remember a reply; it is durable after the next commit, at the latest at `flush`."""
        self._pending.append((key, json.dumps(reply, separators=(",", ":")).encode("ascii")))
        due = time.monotonic() - self._last_commit > COMMIT_SECONDS
        if len(self._pending) >= COMMIT_ROWS or due:
            self.flush()

    def flush(self) -> None:
        """Make everything that was put durable."""
        if self._pending:
            with _plain_errors(self.path), self._db:
                _insert(self._db, self._pending)
            self.written += len(self._pending)
            self._durable += len(self._pending)
            self._pending.clear()
            self._note()
        self._last_commit = time.monotonic()

    def count(self) -> int:
        """How many replies are durable; no `__len__`, since an empty journal is not no journal."""
        with _plain_errors(self.path):
            return int(self._db.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Flush, fold the write-ahead log into the one file, and let others in."""
        try:
            self.flush()
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads: the log stays
                self._db.execute("PRAGMA journal_mode=DELETE")
        finally:
            try:
                with _plain_errors(self.path):
                    self._db.close()
            finally:
                self._release()

    def _note(self) -> None:
        """Keep beside the file how many replies it holds: a damaged one cannot tell any more."""
        with contextlib.suppress(OSError):  # a full disk: the number only helps a sentence
            os.pwrite(self._lock, f"{self._durable:12}\n".encode(), 0)

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


def count_noted(path: Path) -> int:
    """How many replies a journal held when last written to, by its lock file; 0 if unknown."""
    lock = path.with_suffix(".lock")
    text = lock.read_bytes().strip() if lock.is_file() else b""
    return int(text) if text.isdigit() else 0


def _open(path: Path, noted: int) -> tuple[sqlite3.Connection, str | None]:
    """The database, and a sentence if it had to be recovered."""
    is_new = not path.exists() or (path.stat().st_size == 0 and noted == 0)
    has_log = path.with_name(f"{path.name}-wal").exists()  # its process was killed
    spared = dict(readable_rows(path)) if has_log else {}  # SQLite drops a log it cannot follow
    said = None
    if not is_new and not _is_sound(path):
        said = _recover(path, noted, spared)
    with _plain_errors(path):
        db = sqlite3.connect(path, isolation_level="DEFERRED")
        if is_new:
            db.executescript(SCHEMA)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        with db:
            _insert(db, spared.items(), otherwise="IGNORE")
    return db, said


def _is_sound(path: Path) -> bool:
    """Whether the journal can be used as it is; False if it is damaged.

    Raises:
        JournalError: the file is no journal, or one of another version.
    """
    if not _has_our_mark(path):
        return False
    try:
        with contextlib.closing(sqlite3.connect(path)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return False
            rows = db.execute("SELECT key, CAST(reply AS BLOB), checksum FROM replies")
            return all(checksum(key, reply) == found for key, reply, found in rows)
    except sqlite3.OperationalError as error:
        if "malformed" in str(error) or "no such" in str(error):
            return False
        with _plain_errors(path):  # no permission, no memory: nothing is wrong with the file
            raise
    except sqlite3.DatabaseError:
        return False


def _has_our_mark(path: Path) -> bool:
    """Whether the head says so; False where it is spoilt, but our replies are there.

    Raises:
        JournalError: a foreign or newer file, which must not be misread.
    """
    with path.open("rb") as file:
        header = file.read(100)
    found = (int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))
    if found == (APPLICATION_ID, SCHEMA_VERSION) or not header:
        return bool(header)
    if found[0] != APPLICATION_ID and next(readable_rows(path), None) is not None:
        return False
    if header.startswith(b"SQLite format 3\0"):
        raise JournalError(
            f"{path} is not a journal of this version: expected application id {APPLICATION_ID:#x} "
            f"and schema {SCHEMA_VERSION}, found {found[0]:#x} and {found[1]}. {ASIDE}"
        )
    raise JournalError(
        f"{path} should be this run's journal, but is no SQLite file and holds no reply. {ASIDE}"
    )


def _recover(path: Path, noted: int, spared: Mapping[bytes, bytes]) -> str:
    """Put the damaged file aside and what can be read of it into a new one; says what happened."""
    rows = {**spared, **dict(readable_rows(path))}
    fresh = path.with_suffix(".recovering")
    fresh.unlink(missing_ok=True)
    with _plain_errors(path), contextlib.closing(sqlite3.connect(fresh)) as db:
        db.executescript(SCHEMA)
        with db:
            _insert(db, rows.items())
    aside = next(
        name
        for number in itertools.count(1)
        if not (name := path.with_suffix(f".damaged-{number}")).exists()
    )
    shutil.copy2(path, aside)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():  # SQLite must not apply it to the new file
        log.rename(aside.with_name(f"{aside.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    fresh.replace(path)
    lost = f"{max(0, noted - len(rows))} are lost" if noted else "how many are lost is not known"
    return (
        f"The journal {path} was damaged: {len(rows)} of its replies were recovered, {lost} and "
        f"will be computed again. The damaged file is kept as {aside}."
    )


def _insert(
    db: sqlite3.Connection, rows: Iterable[tuple[bytes, bytes]], otherwise: str = "REPLACE"
) -> None:
    db.executemany(
        f"INSERT OR {otherwise} INTO replies VALUES (?, CAST(? AS TEXT), ?)",  # noqa: S608 - ours
        ((key, reply, checksum(key, reply)) for key, reply in rows),
    )
