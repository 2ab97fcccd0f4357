"""Find processes of one test's own programs; other tests run beside it."""

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    return _state(pid) is not None


def children(parent: int) -> list[int]:
    """The live processes whose parent is this one."""
    return [pid for pid in _all() if (state := _state(pid)) and state[1] == parent]


def marked(entry: str) -> list[int]:
    """The processes with an entry NAME=VALUE in the environment that they started with."""
    found = []
    for pid in _all():
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if entry.encode() in entries:
            found.append(pid)
    return found


def _all() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _state(pid: int) -> tuple[str, int] | None:
    """The state of a live process and its parent."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else (state, int(parent))
