"""The keys that identify replies: digests of everything that a reply depends on."""

import hashlib
import json
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mistral_eval.engines.interface import Encoded, EngineIdentity

CHUNK: Final = 1 << 24  # bytes read at once for a digest


def reply_key(identity: EngineIdentity, encoded: Encoded) -> bytes:
    """Return a reply's key; requests may share a reply if and only if their keys are equal."""
    return request_key(identity.fingerprint, encoded.request.kind, *encoded.parts)


def request_key(fingerprint: str, kind: str, *parts: object) -> bytes:
    """Return the SHA-256 digest of an engine's fingerprint, a kind and the encoded parts.

    Texts and token ids are hashed as bytes for speed, other values as JSON. A type mark and a
    length before each part make the encoding unambiguous.
    """
    digest = hashlib.sha256()
    for part in (fingerprint, kind, *parts):
        mark, content = _bytes_of(part)
        digest.update(b"%c%d:" % (mark, len(content)))
        digest.update(content)
    return digest.digest()


def _bytes_of(part: object) -> tuple[bytes, bytes]:
    """Return a part's type mark (text, ids or JSON) and its content."""
    if isinstance(part, str):
        return b"t", part.encode("utf-8", "surrogatepass")
    if isinstance(part, tuple | list):
        with suppress(TypeError, OverflowError):  # not token ids
            return b"i", array("I", part).tobytes()
    text = json.dumps(part, ensure_ascii=True, separators=(",", ":"))
    return b"j", text.encode("ascii")


def files_digest(folder: Path, arguments: Iterable[object] = ()) -> str:
    """Return a digest of the checkpoint's files and of files named in `arguments`."""
    digest = hashlib.sha256()
    for part in (folder, *(Path(str(value)) for value in arguments)):
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file():
                digest.update(f"{file.relative_to(part)}\0{file.stat().st_size}\0".encode())
                with file.open("rb") as content:
                    while chunk := content.read(CHUNK):
                        digest.update(chunk)
    return digest.hexdigest()
