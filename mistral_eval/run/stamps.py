"""Stamps of files: a change of any gives a run, or a judge, another identity."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from mistral_eval.model.load.gguf_file import part_files

Stamp: TypeAlias = list[tuple[str, int, int]]
"""(name, size, modification time in ns) of each file."""


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a model: a folder's files, or all parts of a GGUF file."""
    return stamp_of_files(path.glob("*") if path.is_dir() else part_files(path))


def stamp_of_files(files: Iterable[Path]) -> Stamp:
    """Return the stamp of those of these paths that are files."""
    found = []
    for file in sorted(files):
        if file.is_file():
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
