"""Run folders in a store: a run works in a local copy, and its files are uploaded as it goes on.

The copy of `s3://bucket/prefix` is a folder of the user's cache, named by the URL's digest; its
file `url.txt` holds the URL. Replies are uploaded every `SECONDS`, each log file as a whole, so
that a run killed at any moment goes on elsewhere from what is in the store. run.json is uploaded
last: it is there only if everything else is.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final

from mistral_eval.errors import StoreError
from mistral_eval.record.run_folder import (
    JUDGMENTS_FILE,
    PARTS_FOLDER,
    REPLIES_FOLDER,
    RUN_FILE,
    TABLE_FILE,
)
from mistral_eval.record.store import Store
from mistral_eval.settings import RunSettings, is_url

SECONDS = 20.0  # between two uploads of replies
PAUSES: Final = (2.0, 8.0)  # seconds between attempts to upload a run that has ended
URL_FILE: Final = "url.txt"
LOG_FILES: Final = (f"*/{REPLIES_FOLDER}/*.jsonl",)  # judgments have such a folder too
# What a run needs of its own folder and of its neighbours'.
TO_RESUME: Final = (*LOG_FILES, "*/engine.json", f"*/{PARTS_FOLDER}/*.json", f"*/{RUN_FILE}")
_CHANGING: Final = (RUN_FILE, TABLE_FILE)  # written again by a rescoring
_REREAD: Final = JUDGMENTS_FILE.replace(".", "*.")  # so are these, of pairs too
_LEFT_OUT: Final = ("*.lock", ".*", URL_FILE)

Say = Callable[[str], None]


def local_folder(place: Path | str) -> Path:
    """Return the local folder of runs: the one given, or a URL's copy in the user's cache."""
    if isinstance(place, Path):
        return place.expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]
    return Path(cache) / "mistral-eval" / "runs" / digest


def fetched(place: str, *patterns: str) -> Path:
    """Return the local folder or file of a run, or of a URL's copy after fetching it.

    Args:
        place: a path, or a URL of a run's folder, of its run.json or of another file.
        patterns: which of a run's files to fetch; without any, all.

    Raises:
        StoreError: the store cannot be read, or holds nothing there.
    """
    if not is_url(place):
        return Path(place)
    protocol, _, path = place.rstrip("/").partition("://")
    parts = path.removesuffix(f"/{RUN_FILE}").split("/")
    depth = min(2, len(parts) - 1)  # a run's folder lies in its model's folder
    root, name = "/".join(parts[:-depth] if depth else parts), "/".join(parts[-depth:])
    copy = Copy(f"{protocol}://{root}", _say_nothing)
    if PurePosixPath(name).suffix and copy.store.is_file(name):
        copy.store.fetch([name], copy.folder)
        return copy.folder / name
    if not copy.fetch(name, patterns or ("*",)):
        raise StoreError(
            f"{place} should be a run's folder with a {RUN_FILE} in it, and holds nothing. Give "
            "the URL that `mistral-eval run` printed."
        )
    return copy.folder / name


def _say_nothing(text: str) -> None:
    del text


class Copy:
    """The local copy of a folder of runs in a store.

    Args:
        url: the folder in the store.
        say: receives messages.

    Attributes:
        folder: the local copy; it is made.

    Raises:
        StoreError: the URL cannot be used, or the copy cannot be made.
    """

    def __init__(self, url: str, say: Say) -> None:
        self.store = Store(url)
        self.folder = local_folder(self.store.url)
        self._say = say
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / URL_FILE).write_text(f"{self.store.url}\n", encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"Runs in {self.store.url} are copied to {self.folder}, which cannot be written "
                f"({error.strerror or error}). Set XDG_CACHE_HOME to a folder that can be."
            ) from error

    @classmethod
    def of(cls, settings: RunSettings, say: Say) -> "Copy | None":
        """Return the copy of the folder of runs that settings name; None if it is no URL.

        Raises:
            StoreError: the URL's package is not installed.
        """
        place = settings.output_path
        return None if isinstance(place, Path) else cls(place, say)

    @classmethod
    def around(cls, folder: Path, say: Say) -> "Copy | None":
        """Return the copy that a run's folder lies in; None if it is in none."""
        for parent in folder.parents:
            file = parent / URL_FILE
            if file.is_file():
                url = file.read_text(encoding="utf-8").strip()
                if is_url(url) and local_folder(url) == parent:
                    return cls(url, say)
        return None

    def fetch(self, name: str, patterns: tuple[str, ...] = TO_RESUME) -> int:
        """Fetch files that are new or longer in the store, and newer run.json files.

        Args:
            name: a folder of the store; everything under it is looked at.
            patterns: which files.

        Returns:
            The number of files in the store that match.

        Raises:
            StoreError: the store cannot be read.
        """
        sizes = {
            file: size
            for file, size in self.store.sizes(name).items()
            if any(fnmatch(file, pattern) for pattern in patterns)
            and not any(fnmatch(PurePosixPath(file).name, one) for one in _LEFT_OUT)
        }
        missing = [
            file
            for file, size in sizes.items()
            if not (place := self.folder / file).is_file()
            or (place.name not in _CHANGING and _is_behind(place, size))
        ]
        for file in sizes.keys() - set(missing):
            if PurePosixPath(file).name == RUN_FILE and self._is_newer(file):
                table = str(PurePosixPath(file).with_name(TABLE_FILE))
                missing += [file, *({table} & sizes.keys())]
        self.store.fetch(missing, self.folder)
        return len(sizes)

    def _is_newer(self, file: str) -> bool:
        """Return whether the store's run.json replaces the local one, which is not newer."""
        ours, theirs = (self.folder / file).read_bytes(), self.store.read(file)
        return ours != theirs and _stamp(ours) <= _stamp(theirs)

    @contextmanager
    def keeping(self, run: Path) -> Iterator[None]:
        """Upload a run's replies while the block runs, and all of the run when it has ended.

        If the block raises an error, what the run has so far is uploaded and the error stands.

        Raises:
            StoreError: the store cannot be written at the start or at the end.
        """
        name = run.relative_to(self.folder).as_posix()
        self._say(f"The run works in {run}, a copy of {self.store.url}/{name}.")
        upload = Upload(self.store, name, run, self._say)
        self.store.prove_writable(f"{name}/.probe")
        upload.start()
        try:
            yield
        except BaseException:
            upload.stop()
            upload.try_replies()
            raise
        upload.stop()
        upload.finish()

    def upload(self, run: Path) -> None:
        """Upload what the store lacks of a finished run.

        Raises:
            StoreError: the store cannot be read or written.
        """
        Upload(self.store, run.relative_to(self.folder).as_posix(), run, self._say).finish()


class Upload:
    """Uploads one run's files: its logs every `SECONDS` in a thread, the others at the end.

    Args:
        store: where to.
        name: the run's folder in it.
        run: the run's local folder.
        say: receives messages, from the thread too.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, store: Store, name: str, run: Path, say: Say) -> None:
        self._store = store
        self._name = name
        self._run = run
        self._say = say
        self._known = store.sizes(name)
        self._sent: dict[str, tuple[int, int]] = {}  # name -> size and time when it was sent
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._failing = False

    def start(self) -> None:
        """Begin to upload in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after an upload in progress."""
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(SECONDS):
            self.try_replies()

    def try_replies(self) -> None:
        """Upload the logs; say once that it failed, and once that it works again."""
        try:
            self._send(self._files(logs=True))
        except StoreError as error:
            if not self._failing:
                self._say(f"{error} Replies are kept in {self._run}; the upload is tried again.")
            self._failing = True
            return
        if self._failing:
            self._say(f"{self._store.url} can be written again; all replies so far are there.")
        self._failing = False

    def finish(self) -> None:
        """Upload everything, run.json last.

        Raises:
            StoreError: it failed several times; says where the run's files are.
        """
        for pause in (*PAUSES, None):
            try:
                sent = self._send(self._files(logs=False))
            except StoreError as error:
                if pause is not None:
                    time.sleep(pause)
                    continue
                raise StoreError(
                    f"{error} The run's files are in {self._run}; the same command uploads them."
                ) from error
            if sent:
                self._say(f"The run is in {self._store.url}/{self._name}.")
            return

    def _files(self, *, logs: bool) -> list[Path]:
        """Return the run's files in the order of their upload: the logs only, or all."""
        found = [
            file
            for file in sorted(self._run.rglob("*"))
            if file.is_file() and not any(fnmatch(file.name, one) for one in _LEFT_OUT)
        ]
        if logs:
            return [file for file in found if _is_log(file) or _is_small(file)]
        last = [self._run / one for one in reversed(_CHANGING)]
        return [*(one for one in found if one not in last), *(one for one in last if one in found)]

    def _send(self, files: list[Path]) -> int:
        """Upload the files that have changed since they were sent; return how many.

        Raises:
            StoreError: one could not be written.
        """
        count = 0
        for file in files:
            name = f"{self._name}/{file.relative_to(self._run).as_posix()}"
            status = file.stat()
            state = (status.st_size, status.st_mtime_ns)
            if self._sent.get(name) == state:
                continue
            if name not in self._sent and self._is_there(name, file, status.st_size):
                self._sent[name] = state
                continue
            self._store.write(name, _whole_lines(file) if _is_log(file) else file)
            self._sent[name] = state
            count += 1
        return count

    def _is_there(self, name: str, file: Path, size: int) -> bool:
        """Return whether the store had the file before, with the same content if it may change."""
        if self._known.get(name) != size:
            return False
        may_change = file.name in _CHANGING or fnmatch(file.name, _REREAD)
        return not may_change or self._store.read(name) == file.read_bytes()


def _is_log(file: Path) -> bool:
    return file.parent.name == REPLIES_FOLDER and file.suffix == ".jsonl"


def _is_small(file: Path) -> bool:
    """Return whether a file says how a run or a part of it began."""
    return file.name == "engine.json" or file.parent.name == PARTS_FOLDER


def _whole_lines(file: Path) -> bytes:
    """Return a log's content without a line that is just being written."""
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _is_behind(place: Path, size: int) -> bool:
    """Return whether a local file lacks what the store has; a log may also be ahead of it."""
    local = place.stat().st_size
    return local < size if _is_log(place) else local != size


def _stamp(content: bytes) -> str:
    """Return when a run.json was written, by its results file's name; "" if it cannot be read."""
    try:
        return str(json.loads(content)["results_file"])
    except (ValueError, KeyError, TypeError):
        return ""
