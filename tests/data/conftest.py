"""A hub on this machine's own loopback: data set repositories with commits, for `datasets`.

It speaks as much of the Hugging Face hub's HTTP interface as loading a data set takes.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

Files = Mapping[str, bytes]
PATH = re.compile(
    r"(/api)?/datasets/(?P<repository>[^/]+/[^/]+)"
    r"/(?P<action>resolve|revision|tree)/(?P<revision>[^/]+)(/(?P<below>.*))?"
)


@dataclass(slots=True)
class LocalHub:
    """Repositories by id: names of revisions to commits, commits to files.

    `asked` lists the method and path of each request.
    """

    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repository: str, commit: str, files: Files, name: str = "main") -> None:
        """A commit, which the branch or tag `name` points to from now on."""
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.names.setdefault(repository, {})[name] = commit

    def find(self, repository: str, revision: str) -> str | None:
        """The commit that a branch, tag or commit means."""
        known = self.names.get(repository, {})
        commit = known.get(revision, revision)
        return commit if commit in self.commits.get(repository, {}) else None


@contextmanager
def serve(hub: LocalHub) -> Iterator[LocalHub]:
    """Answer requests inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            status, headers, content = answer(hub, path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    """A hub that answers, with nothing on it."""
    with serve(LocalHub()) as serving:
        yield serving


Answer = tuple[int, dict[str, str], bytes]


def answer(hub: LocalHub, path: str) -> Answer:
    """Status, headers and content."""
    found = PATH.fullmatch(path)
    if found is None or found["repository"] not in hub.commits:
        return _missing("RepoNotFound")
    commit = hub.find(found["repository"], found["revision"])
    if commit is None:
        return _missing("RevisionNotFound")
    files, below = hub.commits[found["repository"]][commit], found["below"] or ""
    if found["action"] == "resolve":
        return _file(files, below, commit)
    if found["action"] == "tree":
        return _json(_entries(files, below))
    siblings = [{"rfilename": file} for file in files]
    return _json({"id": found["repository"], "sha": commit, "siblings": siblings, "tags": []})


def _missing(code: str) -> Answer:
    return 404, {"X-Error-Code": code}, b"{}"


def _json(value: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _file(files: Files, path: str, commit: str) -> Answer:
    if path not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
    tag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
    return 200, {"X-Repo-Commit": commit, "ETag": tag}, files[path]


def _entry(files: Files, path: str) -> list[dict[str, object]]:
    """What the hub says of one file or folder; nothing if there is none."""
    if path in files:
        oid = hashlib.sha1(files[path]).hexdigest()
        return [{"type": "file", "path": path, "size": len(files[path]), "oid": oid}]
    if any(file.startswith(f"{path}/") for file in files):
        return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}]
    return []


def _entries(files: Files, folder: str) -> list[dict[str, object]]:
    """The files and folders right below one."""
    before = f"{folder}/" if folder else ""
    below = dict.fromkeys(
        before + file.removeprefix(before).split("/")[0]
        for file in files
        if file.startswith(before)
    )
    return [entry for path in below for entry in _entry(files, path)]
