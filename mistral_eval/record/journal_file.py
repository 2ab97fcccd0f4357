"""The journal's file: made, recognised, checked and, where it is damaged, recovered.

Rows are only ever appended, so that a commit writes the pages it fills and no others: an index on
keys, which are as good as random, would have each commit write half of the file again. Whoever
opens a journal reads it whole, to check it, and then knows which row has which key.
"""

import contextlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mistral_eval.errors import JournalError
from mistral_eval.record.journal_pages import checksum, readable_rows

APPLICATION_ID = 0x4D45564A  # "MEVJ", in the file's header: `file` and we know it again
SCHEMA_VERSION = 3  # 3: rows in the order they came, keys hashed from bytes
ASIDE = "Move it aside, or start again with --fresh."
LOG_PAGES = 4096  # of the write-ahead log, before SQLite folds it into the file

# One transaction: a file that was being made when its process died is empty, not half a journal.
SCHEMA = f"""
BEGIN;
CREATE TABLE replies (key BLOB NOT NULL, reply TEXT NOT NULL, checksum INTEGER NOT NULL);
PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};
COMMIT;
"""
READ = "SELECT rowid, key, CAST(reply AS BLOB), checksum FROM replies"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A journal's database, ready to be written to.

    Attributes:
        db: the connection.
        rows: the number of the row that has the reply to each key.
        last: the highest number of a row.
        recovered: a sentence, if the file was damaged.
    """

    db: sqlite3.Connection
    rows: dict[bytes, int]
    last: int
    recovered: str | None


def append(
    db: sqlite3.Connection, rows: Iterable[tuple[bytes, bytes]], after: int = 0
) -> dict[bytes, int]:
    """Write (key, reply) pairs behind row `after` in one transaction; the row of each key.

    Raises:
        sqlite3.Error: nothing was written.
    """
    numbered = list(enumerate(rows, after + 1))
    # REPLACE: a signal right behind a commit has the same rows written again, under their numbers
    with db:
        db.executemany(
            "INSERT OR REPLACE INTO replies (rowid, key, reply, checksum) "
            "VALUES (?, ?, CAST(? AS TEXT), ?)",
            ((number, key, reply, checksum(key, reply)) for number, (key, reply) in numbered),
        )
    return {key: number for number, (key, _) in numbered}


def read_replies(db: sqlite3.Connection, keys: Collection[bytes]) -> dict[bytes, Any]:
    """The replies to `keys` that a journal's database has; of several to one key the latest.

    Raises:
        sqlite3.DatabaseError: a row is not what was written.
    """
    wanted = frozenset(keys)
    rows = (row for row in db.execute(f"{READ} ORDER BY rowid") if row[1] in wanted)
    return {key: checked(key, reply, kept) for _, key, reply, kept in rows}


def checked(key: bytes, reply: bytes, kept: int) -> Any:
    """A row's reply.

    Raises:
        sqlite3.DatabaseError: its checksum does not fit.
    """
    if checksum(key, reply) != kept:
        raise sqlite3.DatabaseError("a reply's checksum does not fit")
    return json.loads(reply)


class plain_errors:  # noqa: N801 - reads as a statement: `with plain_errors(path):`
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


def count_noted(path: Path) -> int:
    """How many replies a journal held when last written to, by its lock file; 0 if unknown."""
    lock = path.with_suffix(".lock")
    text = lock.read_bytes().strip() if lock.is_file() else b""
    return int(text) if text.isdigit() else 0


def open_file(path: Path, noted: int) -> OpenFile:
    """Open a journal, made if absent; `noted` replies were in it when it was last written to.

    Raises:
        JournalError: the file is no journal, or one of another version, or cannot be read.
    """
    is_new = not path.exists() or (path.stat().st_size == 0 and noted == 0)
    has_log = path.with_name(f"{path.name}-wal").exists()  # its process was killed
    spared = dict(readable_rows(path)) if has_log else {}  # SQLite drops a log it cannot follow
    said = None
    rows = {} if is_new else _sound_rows(path)
    if rows is None:
        said, rows = _recover(path, noted, spared)
    with plain_errors(path):
        db = sqlite3.connect(path, isolation_level="DEFERRED")
        if is_new:
            db.executescript(SCHEMA)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        last = max(rows.values(), default=0)
        absent = [(key, reply) for key, reply in spared.items() if key not in rows]
        rows |= append(db, absent, last)
    return OpenFile(db, rows, last + len(absent), said)


def _sound_rows(path: Path) -> dict[bytes, int] | None:
    """The number of each key's row, if the journal can be used as it is; None if it is damaged.

    Raises:
        JournalError: the file is no journal, or one of another version.
    """
    if not _has_our_mark(path):
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return None
            rows = {}
            for number, key, reply, kept in db.execute(f"{READ} ORDER BY rowid"):
                if checksum(key, reply) != kept:
                    return None
                rows[key] = number
            return rows
    except sqlite3.OperationalError as error:
        if "malformed" in str(error) or "no such" in str(error):
            return None
        with plain_errors(path):  # no permission, no memory: nothing is wrong with the file
            raise
    except sqlite3.DatabaseError:
        return None


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


def _recover(path: Path, noted: int, spared: Mapping[bytes, bytes]) -> tuple[str, dict[bytes, int]]:
    """Put the damaged file aside and what can be read of it into a new one.

    Returns:
        What happened, in a sentence, and the row of each key in the new file.
    """
    found = {**spared, **dict(readable_rows(path))}
    fresh = path.with_suffix(".recovering")
    fresh.unlink(missing_ok=True)
    with plain_errors(path), contextlib.closing(sqlite3.connect(fresh)) as db:
        db.executescript(SCHEMA)
        rows = append(db, found.items())
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
    said = (
        f"The journal {path} was damaged: {len(rows)} of its replies were recovered, {lost} and "
        f"will be computed again. The damaged file is kept as {aside}."
    )
    return said, rows
