"""Find the files of the sandbox's Python: interpreter, standard library, shared libraries.

The interpreter itself lists what it has mapped after importing the modules that link to further
libraries. Site-packages are excluded.
"""

import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mistral_eval.errors import SandboxError

_SURVEY = """
import json, sys
for name in ("_bz2", "_ctypes", "_decimal", "_hashlib", "_lzma", "_sqlite3", "_ssl", "_uuid",
             "binascii", "math", "pyexpat", "zlib"):
    try:
        __import__(name)
    except ImportError:
        pass
with open("/proc/self/maps") as maps:
    mapped = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
print(json.dumps({"path": sys.path, "mapped": sorted(mapped)}))
"""
_PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs programs.

    Attributes:
        executable: Its path.
        files: Each path inside the sandbox, mapped to the host's file or folder.
        hidden: Folders in these that must not be visible.
        shared_libraries: Folders of shared libraries, separated by colons.
    """

    executable: str
    files: dict[str, str]
    hidden: tuple[str, ...]
    shared_libraries: str


@cache  # takes a tenth of a second, and the result does not change
def find_interpreter() -> Interpreter:
    """Find this process's base interpreter (never a virtual environment's) and its files.

    Raises:
        SandboxError: The interpreter did not start.
    """
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    try:
        answer = subprocess.run(  # noqa: S603  our own interpreter, our own text
            [executable, "-I", "-S", "-B", "-c", _SURVEY],
            capture_output=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(
            f"the Python that runs generated programs, {executable}, did not start: {error}; "
            "repair that installation or use another Python"
        ) from error
    survey = json.loads(answer.stdout)
    files = {executable: executable}
    for entry in survey["path"]:
        if Path(entry).exists():
            files[entry] = os.path.realpath(entry)
    folders = [folder for folder in files if Path(folder).is_dir()]
    for library in _libraries(survey["mapped"], folders):
        files |= dict.fromkeys(_names_of(library), str(library))
    files |= _loader(Path(executable))
    hidden = tuple(
        str(path)
        for folder in folders
        for name in ("site-packages", "dist-packages")
        if (path := Path(folder, name)).is_dir()
    )
    directories = {str(Path(name).parent) for name, host in files.items() if Path(host).is_file()}
    return Interpreter(executable, _outermost(files), hidden, ":".join(sorted(directories)))


def _libraries(mapped: list[str], folders: list[str]) -> list[Path]:
    """Return the shared libraries among the mapped files, without those in `folders`."""
    found = []
    for name in mapped:
        path = Path(name)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in folders):
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    found.append(path)
    return found


def _names_of(library: Path) -> list[str]:
    """Return the paths of a library: its own and those of symlinks to it in the same folder."""
    stem = library.name.split(".so")[0]
    links = [
        str(path)
        for path in library.parent.glob(f"{stem}.so*")
        if path.is_symlink() and path.resolve() == library
    ]
    return [str(library), *links]


def _loader(executable: Path) -> dict[str, str]:
    """Return the dynamic loader named in the executable's ELF header, mapped to its real file."""
    data = executable.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return {}
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for entry in range(table, table + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, entry)
        if kind == _PT_INTERP:
            name = data[offset : offset + length].rstrip(b"\0").decode()
            return {name: os.path.realpath(name)}
    return {}


def _outermost(files: dict[str, str]) -> dict[str, str]:
    """Return `files` sorted by path, without those inside a folder of another entry."""
    kept: dict[str, str] = {}
    for name in sorted(files):
        inside = any(
            Path(name).is_relative_to(folder) and Path(host).is_dir()
            for folder, host in kept.items()
        )
        if not inside:
            kept[name] = files[name]
    return kept
