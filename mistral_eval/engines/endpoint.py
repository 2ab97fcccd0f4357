"""Where a server is and how it is asked, as the command line and the environment say.

The API key comes from the environment only.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from mistral_eval.errors import UsageError

KEYS: Final = ("MISTRAL_EVAL_API_KEY", "OPENAI_API_KEY")  # environment variables; the first wins
_KEY: Final = re.compile(r"[!-~]+")  # what a header takes, without spaces


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how to ask it.

    Attributes:
        url: the URL before `/models` and `/completions`, see `base_url`.
        in_flight: maximum number of requests at a time.
        retries: how often a failed request is repeated.
        timeout: seconds until a request that was sent counts as failed.
        backoff: seconds before the first repetition; each further one waits twice as long.
        key: the API key; empty for none.
        option: the option of the command line that gives the URL, for messages.
        when_slow: what helps against timeouts, as a sentence.
        keys: the environment variables of the key, for messages.
    """

    url: str
    in_flight: int = 32
    retries: int = 5
    timeout: float = 600.0
    backoff: float = 0.5
    key: str = field(default="", repr=False)
    option: str = "--base-url"
    when_slow: str = "Raise --model-args timeout, or lower num_concurrent."
    keys: Sequence[str] = KEYS


def base_url(given: str, option: str = "--base-url") -> str:
    """Return a server's base URL from any of the forms in use.

    `http://host:8000`, `http://host:8000/v1` and `http://host:8000/v1/completions` (as lm-eval
    takes it) are the same server. `option` is the one that gave it.

    Raises:
        UsageError: it is no URL of HTTP, or holds a password or a query.
    """
    kept = "it is kept in run.json. Put the key into the environment variable"
    place = re.split(r"[/?#]", given.partition("//")[2] or given, maxsplit=1)[0]
    if "@" in place:
        raise UsageError(f"{option} should hold no password: {kept} {KEYS[0]}.")
    if "?" in given:
        raise UsageError(f"{option} should end before the question mark: {kept} {KEYS[0]}.")
    try:
        parts = urlsplit(given.strip())
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an end, or a port that is no number up to 65535
        is_url = False
    if not is_url:
        raise UsageError(
            f"{option} should be like http://localhost:8000/v1 and is {given!r}. Give the "
            "server's URL."
        )
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(ending)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def key_from_environment(names: Sequence[str] = KEYS) -> str:
    """Return the API key, from the first of these variables that holds one; "" for none.

    Raises:
        UsageError: it has characters that no request can carry.
    """
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not _KEY.fullmatch(key):
                raise UsageError(
                    f"The environment variable {name} should hold one API key of ASCII characters "
                    "and holds others, or white space. Set it again."
                )
            return key
    return ""


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL.

    Raises:
        UsageError: it is none that speaks HTTP.
    """
    parts = urlsplit(url)
    found = getproxies().get(parts.scheme)
    if not found or proxy_bypass(parts.hostname or ""):
        return None
    proxy = found if "://" in found else f"http://{found}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise UsageError(
            f"The environment variable {parts.scheme}_proxy should name a proxy like "
            f"http://HOST:PORT and names one of {urlsplit(proxy).scheme}. Correct it, or put the "
            "server's host into no_proxy."
        )
    return proxy
