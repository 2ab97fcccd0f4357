"""A hub on this machine's own loopback: data set repositories with commits, for `datasets`.

It speaks as much of the Hugging Face hub's HTTP interface as loading a data set takes.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


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

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._answer(self.rfile.read(length))

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bytes = b"") -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            status, headers, content = answer(hub, path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


Answer = tuple[int, dict[str, str], bytes]


def answer(hub: LocalHub, path: str, body: bytes) -> Answer:
    """Status, headers and content."""
    parts = path.strip("/").split("/")
    is_api = parts[0] == "api"
    kind, owner, name, *rest = parts[is_api:] if len(parts) > 3 else (*parts, "", "", "")
    repository = f"{owner}/{name}"
    if kind != "datasets" or repository not in hub.commits:
        return _missing("RepoNotFound")
    action, revision, *below = (*rest, "", "")[: max(2, len(rest))]
    if action not in ("resolve", "revision", "tree", "paths-info", ""):
        return _missing("EntryNotFound")
    commit = hub.find(repository, revision or "main")
    if commit is None:
        return _missing("RevisionNotFound")
    files = hub.commits[repository][commit]
    if not is_api:
        return _file(files, "/".join(below), commit)
    if action in ("revision", ""):
        siblings = [{"rfilename": file} for file in files]
        return _json({"id": repository, "sha": commit, "siblings": siblings, "tags": []})
    if action == "tree":
        return _json(_entries(files, "/".join(below)))
    wanted = _paths(body)
    return _json([entry for path in wanted for entry in _entry(files, path)])


def _missing(code: str) -> Answer:
    return 404, {"X-Error-Code": code}, b"{}"


def _json(value: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _file(files: Files, path: str, commit: str) -> Answer:
    if path not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
    tag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
    return 200, {"X-Repo-Commit": commit, "ETag": tag}, files[path]


def _paths(body: bytes) -> list[str]:
    from urllib.parse import parse_qs

    try:
        return list(json.loads(body)["paths"])
    except ValueError:
        return parse_qs(body.decode()).get("paths", [])


def _entry(files: Files, path: str) -> list[dict[str, object]]:
    """What the hub says of one file or folder; nothing if there is none."""
    if path in files:
        oid = hashlib.sha1(files[path]).hexdigest()  # noqa: S324 - as git names it
        return [{"type": "file", "path": path, "size": len(files[path]), "oid": oid}]
    if any(file.startswith(f"{path}/") for file in files):
        return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}]
    return []


def _entries(files: Files, folder: str) -> list[dict[str, object]]:
    """The files and folders right below one."""
    before = f"{folder}/" if folder else ""
    below = dict.fromkeys(
        before + file.removeprefix(before).split("/")[0] for file in files if file.startswith(before)
    )
    return [entry for path in below for entry in _entry(files, path)]
