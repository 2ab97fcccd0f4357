"""Recognise Git LFS pointers: small text files that stand for a file that was not fetched."""

from pathlib import Path

FIRST_BYTES = b"version https://git-lfs"


def pointer_sentence(file: Path) -> str | None:
    """Return the error for a file that is a Git LFS pointer; None for any other path.

    Source: the pointer format of git-lfs (docs/spec.md); a pointer begins with its version.
    """
    if not file.is_file():
        return None
    with file.open("rb") as content:
        if content.read(len(FIRST_BYTES)) != FIRST_BYTES:
            return None
    return (
        f"{file} should hold the file's content and is a Git LFS pointer: run `git lfs pull` in "
        f"{file.parent}."
    )
