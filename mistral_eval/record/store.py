"""A folder in a store that fsspec reaches (S3, Google Cloud Storage, a mounted bucket, ...).

Every fault of a store becomes a `StoreError` with one sentence. fsspec is imported when a URL is
used, and so is the store's own package: s3fs for s3://, gcsfs for gs://.
"""

import asyncio
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from mistral_eval.errors import StoreError

EXTRAS: Final = {"s3": "pip install 'mistral-eval[s3]'", "s3a": "pip install 'mistral-eval[s3]'"}
# Stores that replace an object as a whole and have no folders to be made.
OF_OBJECTS: Final = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "memory"}
)
# What the stores' packages raise beside OSError; a module that is not loaded has raised nothing.
_FAULTS: Final = {
    "aiohttp": "ClientError",
    "azure.core.exceptions": "AzureError",
    "botocore.exceptions": "BotoCoreError ClientError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
    "httpx": "HTTPError",
    "paramiko.ssh_exception": "SSHException",
}


def _faults() -> tuple[type[BaseException], ...]:
    """Return the exceptions of the stores whose packages are loaded."""
    found: list[type[BaseException]] = [OSError, asyncio.TimeoutError, NotImplementedError]
    for module, names in _FAULTS.items():
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names.split()]
    return tuple(found)


class Store:
    """A folder in a store; names of files are relative to it.

    Args:
        url: the folder, e.g. s3://bucket/prefix.

    Raises:
        StoreError: fsspec has no such protocol, its package is not installed, or it cannot be
            reached.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/") if not url.endswith("://") else url
        protocol = url.partition("://")[0]
        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        self._replaces = protocol in OF_OBJECTS
        # Several processes may copy one file at a time, each to a name of its own.
        self._unfinished = f"{uuid.uuid4().hex[:12]}.part"
        try:
            with self._plain_errors("reached"):
                self._fs, root = url_to_fs(self.url, **options)
        except ImportError as error:
            need = EXTRAS.get(protocol, "the package that the message names")
            raise StoreError(
                f"{self.url} needs a package that is not installed ({_first_line(error)}). "
                f"Install it: {need}."
            ) from error
        except ValueError as error:
            raise StoreError(
                f"{self.url} should be the URL of a store that fsspec reaches, such as "
                f"s3://bucket/prefix ({_first_line(error)}). Give such a URL, or a folder."
            ) from error
        self._root = root.rstrip("/")

    def sizes(self, under: str = "") -> dict[str, int]:
        """Return the size in bytes of each file, by name, at any depth of the folder `under`.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._plain_errors("read"):
            self._fs.invalidate_cache()
            place = self._at(under)
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(place, detail=True)
        start = len(f"{self._root}/")
        return {name[start:]: int(info["size"]) for name, info in found.items()}

    def is_file(self, name: str) -> bool:
        """Return whether there is a file of this name.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._plain_errors("read"):
            return bool(self._fs.isfile(self._at(name)))

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            StoreError: it cannot be read.
        """
        with self._plain_errors("read"):
            content: bytes = self._fs.cat_file(self._at(name))
            return content

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copy files into a local folder, under their names, each whole or not at all.

        Raises:
            StoreError: one cannot be read or written.
        """
        if not names:
            return
        places = [folder / name for name in names]
        with self._plain_errors("read"):
            for parent in {place.parent for place in places}:
                parent.mkdir(parents=True, exist_ok=True)
            parts = [place.with_name(f".{place.name}.{self._unfinished}") for place in places]
            try:
                self._fs.get([self._at(name) for name in names], list(map(str, parts)))
                for part, place in zip(parts, places, strict=True):
                    part.replace(place)
            finally:
                for part in parts:
                    part.unlink(missing_ok=True)

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file, whole or not at all.

        Args:
            name: the file's name.
            content: its content, or the local file to copy.

        Raises:
            StoreError: it cannot be written.
        """
        place = self._at(name)
        parent, _, last = place.rpartition("/")
        target = place if self._replaces else f"{parent}/.{last}.{self._unfinished}"
        with self._plain_errors("written"):
            if not self._replaces:
                self._fs.makedirs(parent, exist_ok=True)
            if isinstance(content, Path):
                self._fs.put_file(str(content), target)
            else:
                self._fs.pipe_file(target, content)
            if target != place:
                self._fs.mv(target, place)

    def prove_writable(self, name: str) -> None:
        """Write a file of two bytes and delete it again, where deleting is allowed.

        Raises:
            StoreError: the store cannot be written.
        """
        self.write(name, b"{}")
        with suppress(StoreError), self._plain_errors("written"):
            self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _plain_errors(self, done: str) -> Iterator[None]:
        """Turn a store's fault into one sentence.

        Raises:
            StoreError: the block raised a fault.
        """
        try:
            yield
        except _faults() as error:
            raise StoreError(
                f"{self.url} could not be {done} ({_reason(error)}). Check the URL, the "
                "credentials and the network."
            ) from error


def _reason(error: BaseException) -> str:
    """Return why a store failed, in a few words and the store's own."""
    said = _first_line(error)
    if isinstance(error, FileNotFoundError):
        return f"no such bucket or folder: {said}"
    if isinstance(error, PermissionError):
        return f"no permission: {said}"
    if isinstance(error, NotImplementedError):
        return "this kind of store does not do that"
    return said


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
