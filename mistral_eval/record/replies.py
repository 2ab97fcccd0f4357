"""The replies log: append-only files from which a run resumes and is rescored.

A run's folder has a folder `replies/` of files `<UTC time>-<host>-<pid>.jsonl`, or
`<UTC time>-<host>-<pid>-part2of4-attempt1.jsonl` of a part of a run. Each process that
writes starts a file of its own, so correctness needs no lock and no shared memory, and the files of
several processes or machines merge by lying in one folder. A file that has reached `SEGMENT_BYTES`
is closed, and another one is begun. One line is one reply:

    {"key":"<64 hex digits>","crc":"<8 hex digits>","reply":{...}}

`key` is the SHA-256 digest of everything the reply depends on (`engines.interface.reply_key`);
`crc` is the CRC-32 of the key's digits followed by the reply's bytes. A torn or damaged line
fails this check: it is skipped and counted, and its request is computed again. If several lines
have one key, the last valid one in file-name order is used; equal keys mean equal requests, so any
of them is right.
"""

import contextlib
import itertools
import json
import os
import re
import time
import zlib
from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mistral_eval.errors import RepliesError
from mistral_eval.record.run_folder import REPLIES_FOLDER
from mistral_eval.record.run_locks import plain_errors, take_locks

OLD_JOURNAL = "journal.sqlite"  # where version 0.1.0 kept replies
BATCH_REPLIES = 4096
BATCH_SECONDS = 0.5
SEGMENT_BYTES = 8 << 20  # a file of this size is closed; the next batch begins another
KEY_BYTES = 32
LONGEST_LINE = 1 << 26  # bytes; bounds memory when a foreign file has no newlines
OFFSET_BITS = 44  # a place in the log is one integer: file number, then offset in the file
HEAD = b'{"key":"'
LINE = re.compile(rb'\{"key":"([0-9a-f]{64})","crc":"([0-9a-f]{8})","reply":(\{.*\})\}\n?')

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def check_replies(folder: Path) -> None:
    """Check that a finished run's folder still has its replies.

    Raises:
        RepliesError: it has none, or those of version 0.1.0.
    """
    _refuse_old_journal(folder)
    if not any((folder / REPLIES_FOLDER).glob("*.jsonl")):
        raise RepliesError(
            f"{folder} should hold the run's replies in {REPLIES_FOLDER}/*.jsonl, but there are "
            "none. Repeat the run's command with --fresh."
        )


def _has_old_journal(folder: Path) -> bool:
    return (folder / OLD_JOURNAL).exists() and not (folder / REPLIES_FOLDER).is_dir()


def _refuse_old_journal(folder: Path) -> None:
    if _has_old_journal(folder):
        raise RepliesError(
            f"{folder} holds {OLD_JOURNAL}, the journal of a run of mistral-eval 0.1.0. Since "
            f"0.2.0 replies are kept in {REPLIES_FOLDER}/*.jsonl, and journals are not read. Run "
            "the command again with --fresh, or finish this run with mistral-eval 0.1.0."
        )


class Replies:
    """Read-only index of a run's replies log, as it is on disk when the object is made.

    A run's folder without a log has no replies. Memory holds the key and place of each reply, not
    the reply itself. `skipped` counts damaged lines; `ignored` names files without any reply.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / REPLIES_FOLDER
        self.skipped = 0
        self.ignored: list[str] = []
        self._files: list[Path] = []
        self._places: dict[bytes, int] = {}
        with plain_errors(self.folder):
            entries = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in entries:
            if path.suffix == ".jsonl" and path.is_file():
                self._index(path)
            elif not path.name.startswith("."):
                self.ignored.append(path.name)

    @property
    def notice(self) -> str | None:
        """A sentence on what could not be read; None if everything could."""
        said = []
        if self.skipped:
            lines = "damaged line was" if self.skipped == 1 else "damaged lines were"
            said.append(f"{self.skipped} {lines} skipped in {self.folder}.")
        if self.ignored:
            files = "file holds" if len(self.ignored) == 1 else "files hold"
            names = ", ".join(self.ignored[:3]) + (", ..." if len(self.ignored) > 3 else "")
            said.append(
                f"{len(self.ignored)} {files} no readable reply in {self.folder} ({names}); "
                "ignored."
            )
        return " ".join(said) or None

    def count(self) -> int:
        """Return the number of durable replies; no `__len__`, so that an empty log is true."""
        return len(self._places)

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the durable replies among `keys`.

        Raises:
            RepliesError: a file that could be read before cannot be read now.
        """
        places = sorted((self._places[key], key) for key in set(keys) if key in self._places)
        found: dict[bytes, Any] = {}
        for number, group in itertools.groupby(places, lambda item: item[0] >> OFFSET_BITS):
            with plain_errors(self.folder), self._files[number].open("rb") as file:
                for place, key in group:
                    file.seek(place & ((1 << OFFSET_BITS) - 1))
                    line = _parse(file.readline(LONGEST_LINE))
                    if line is None or line[0] != key:  # damaged since it was indexed
                        self.skipped += 1
                        del self._places[key]
                    else:
                        found[key] = _decode(line[1].decode("ascii"))
        return found

    def _index(self, path: Path) -> None:
        """Add a file's valid lines to the index and count the others."""
        number = len(self._files)
        self._files.append(path)
        place, has_lines = number << OFFSET_BITS, False
        damaged, size = 0, place
        try:
            with path.open("rb") as file:
                while line := file.readline(LONGEST_LINE):
                    parsed = _parse(line)
                    if parsed is not None:
                        self._places[parsed[0]] = place
                        has_lines = True
                    else:
                        damaged += 1
                        # without its newline, a damaged line runs into the next one
                        start = line.rfind(HEAD)
                        has_lines |= start >= 0
                        if start > 0 and (parsed := _parse(line[start:])) is not None:
                            self._places[parsed[0]] = place + start
                    place += len(line)
        except OSError:  # no permission, or a bad disk: what was read before counts
            self.ignored.append(path.name)
            return
        if has_lines:
            self.skipped += damaged
        elif place > size:
            self.ignored.append(path.name)


class RepliesLog(Replies):
    """A run's replies log, open for writing by this process.

    Replies are appended and synced to disk in batches. The process's file is made when the first
    batch is written; the run's folder must exist.

    Args:
        folder: the run's folder.
        share: the name of this process's share of the run, where others work on theirs at the same
            time, e.g. part2of4-attempt1; the name of its file has it. Empty: the whole run.

    Raises:
        RepliesError: another process works on the run or on the same share, or the folder holds the
            journal of version 0.1.0.
    """

    def __init__(self, folder: Path, share: str = "") -> None:
        _refuse_old_journal(folder)
        self._share = share
        self._locks = take_locks(folder, share)
        self._output: int | None = None
        self._size = 0  # bytes of this process's latest file that are durable
        self._pending: list[tuple[bytes, bytes]] = []
        self._last_flush = time.monotonic()
        try:
            super().__init__(folder)
        except BaseException:
            self._release()
            raise

    def put(self, key: bytes, reply: Mapping[str, Any]) -> None:
        """Append a reply; it is durable after the next batch, at the latest after `flush`.

        Raises:
            RepliesError: the batch could not be written.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key should have {KEY_BYTES} bytes, found {len(key)}")
        self._pending.append((key, _encode(reply).encode("ascii")))
        if len(self._pending) >= BATCH_REPLIES:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if the last flush is long enough ago.

        Raises:
            RepliesError: the batch could not be written.
        """
        if self._pending and time.monotonic() - self._last_flush > BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write pending replies and sync them to disk.

        Raises:
            RepliesError: they could not be written; they stay pending.
        """
        if self._pending:
            lines = [_line(key, reply) for key, reply in self._pending]
            with plain_errors(self.folder):
                if self._output is None:
                    self._create()
                self._append(b"".join(lines))
            # A signal may interrupt anywhere here: until the size is advanced, the same replies
            # are written again at the same offset.
            size = self._size
            base = (len(self._files) - 1) << OFFSET_BITS
            for (key, _), line in zip(self._pending, lines, strict=True):
                self._places[key] = base + size
                size += len(line)
            self._size = size
            self._pending.clear()
            if size >= SEGMENT_BYTES:
                self._close_file()
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Flush, close this process's file and let other processes in."""
        try:
            self.flush()
        finally:
            self._release()

    def _create(self) -> None:
        """Start this process's file under a name that no other process has."""
        self.folder.mkdir(exist_ok=True)
        host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)
        parts = [f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", host, str(os.getpid()), self._share]
        path = self.folder / f"{'-'.join(filter(None, parts))}.jsonl"
        self._files.append(path)
        self._size = 0
        self._output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every file system syncs a folder
                os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, data: bytes) -> None:
        """Write a batch behind the durable part of the file; after an error keep whole lines."""
        assert self._output is not None
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._output, memoryview(data)[done:], self._size + done)
            os.fsync(self._output)
        except OSError:
            whole = data.rfind(b"\n", 0, done) + 1
            with contextlib.suppress(OSError):  # a torn line would be skipped when read
                os.ftruncate(self._output, self._size + whole)
            raise

    def _close_file(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            os.close(output)

    def _release(self) -> None:
        self._close_file()
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OtherRuns:
    """Replies that other runs of the same model already have, for example with `--limit 100`.

    Their logs are only read. The key decides, as within one log: it covers model, tokenizer, dtype,
    device, engine, seed, settings and token ids.

    Args:
        folder: the run that asks; the folders beside it are searched.
        say: told once of each neighbour that cannot be read in full.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._said: set[Path] = set()

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the replies among `keys` that neighbouring runs have."""
        found: dict[bytes, Any] = {}
        for run in sorted(self._folder.parent.iterdir()):
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            if run == self._folder:
                continue
            if _has_old_journal(run):
                notice: str | None = (
                    f"The replies of {run} are not reused: they are in {OLD_JOURNAL}, the journal "
                    "of mistral-eval 0.1.0, which this version cannot read."
                )
            else:
                replies = Replies(run)
                found.update(replies.lookup(missing))
                notice = replies.notice
            if notice and run not in self._said:
                self._said.add(run)
                self._say(notice)
        return found


def _line(key: bytes, reply: bytes) -> bytes:
    name = key.hex().encode()
    return b'{"key":"%b","crc":"%08x","reply":%b}\n' % (
        name,
        zlib.crc32(reply, zlib.crc32(name)),
        reply,
    )


def _parse(line: bytes) -> tuple[bytes, bytes] | None:
    """Return a line's key and reply, or None if it is damaged."""
    match = LINE.fullmatch(line)
    if match is None:
        return None
    name, crc, reply = match.groups()
    if zlib.crc32(reply, zlib.crc32(name)) != int(crc, 16):
        return None
    return unhexlify(name), reply
