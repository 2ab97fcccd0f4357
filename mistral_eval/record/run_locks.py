"""Locks of a run's folder: one process for the whole run, or one for each share of it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mistral_eval.errors import LockedError, RepliesError
from mistral_eval.record.run_folder import LOCK_FILE, PARTS_FOLDER, REPLIES_FOLDER, remedy


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn operating system errors into a sentence that says where the replies are."""
    try:
        yield
    except OSError as error:
        raise RepliesError(
            f"The replies log {folder} cannot be read or written ({error.strerror or error}). "
            f"Replies written before are safe in it. {remedy(error)}"
        ) from error


def take_locks(folder: Path, share: str) -> list[int]:
    """Lock a run against a second process, or one share of it; released when this process ends.

    Processes with different shares work beside each other. The whole run excludes them all, since
    it would compute what they are computing. On a network file system that has locks, this holds
    between machines too.

    Returns:
        The lock files' descriptors; none where the file system has no locks. Two writers waste
        work, but do no harm.

    Raises:
        LockedError: another process holds a lock.
    """
    whole = folder / LOCK_FILE
    if not share:
        try:
            return _lock(whole, fcntl.LOCK_EX)
        except BlockingIOError:
            raise LockedError(_who_works(folder)) from None
    held: list[int] = []
    own = folder / PARTS_FOLDER / f"{share}.lock"
    with plain_errors(folder / REPLIES_FOLDER):
        own.parent.mkdir(exist_ok=True)
    try:
        held += _lock(whole, fcntl.LOCK_SH)
        held += _lock(own, fcntl.LOCK_EX)
    except BlockingIOError:
        which = f"as {share} on the run" if held else "on the whole run"
        for handle in held:
            os.close(handle)
        raise LockedError(
            f"Another process is working {which} in {folder}. Wait for it, or stop it."
        ) from None
    return held


def _who_works(folder: Path) -> str:
    """Return a sentence about who holds the lock of the whole run."""
    try:
        handles = _lock(folder / LOCK_FILE, fcntl.LOCK_SH)
    except BlockingIOError:
        return (
            f"Another process is working on the run in {folder}. Wait for it, stop it, or "
            "give this run another folder with --output-path."
        )
    for handle in handles:
        os.close(handle)
    return (
        f"Other processes are working on parts of the run in {folder}. Wait for them; --no-compute "
        "says what is still missing."
    )


def _lock(path: Path, kind: int) -> list[int]:
    """Lock a file, shared or exclusively; return its descriptor, or none if there are no locks.

    Raises:
        BlockingIOError: another process holds it.
        RepliesError: it cannot be opened.
    """
    with plain_errors(path.parent / REPLIES_FOLDER):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return []
    return [handle]
