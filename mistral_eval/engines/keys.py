"""The keys that identify replies: digests of everything that a reply depends on."""

import hashlib
import json
from array import array
from contextlib import suppress

from mistral_eval.engines.interface import Encoded, EngineIdentity


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
