"""Replies that other runs of the same model already have: `--limit 100`, then the whole.

Their journals are only read, and only when closed. The key decides, as within one journal: it holds
model, tokenizer, dtype, device, engine, seed, settings and token ids.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mistral_eval.record.journal_file import APPLICATION_ID, SCHEMA_VERSION, read_replies
from mistral_eval.record.run_folder import JOURNAL_FILE


class OtherRuns:
    """The runs beside one run.

    Args:
        folder: the run that asks; its neighbours are asked.
        say: told of each neighbour that cannot be read, once.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._skipped: set[Path] = set()

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The replies that closed journals beside this run have among `keys`."""
        found: dict[bytes, Any] = {}
        for path in sorted(self._folder.parent.glob(f"*/{JOURNAL_FILE}")):
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            if path.parent != self._folder and path not in self._skipped:
                found.update(self._from(path, missing))
        return found

    def _from(self, path: Path, keys: Sequence[bytes]) -> dict[bytes, Any]:
        try:
            reason = _in_use(path)
            if reason is None:
                with _reading(path) as db:
                    return read_replies(db, keys)
        except (OSError, sqlite3.Error, ValueError) as error:
            reason = f"it cannot be read ({error})"
        self._skipped.add(path)
        self._say(f"The replies of {path.parent} are not used: {reason}.")
        return {}


def _in_use(path: Path) -> str | None:
    """Why a journal is not closed, or None if it is."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return "that run is going on, or was killed and not gone on with"
    lock = path.with_suffix(".lock")
    if lock.exists():
        handle = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "that run is going on"
        finally:
            os.close(handle)
    return None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The journal, read-only; SQLite's own locks guard it should its run begin meanwhile.

    Raises:
        ValueError: it is no journal of this version.
        sqlite3.Error: it is damaged.
    """
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise ValueError("no journal of this version")
        yield db
