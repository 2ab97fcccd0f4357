"""Post JSON to an HTTP server, with retries, and say in one sentence what fails.

Nothing here knows what is asked. The API key appears in no message.
"""

import asyncio
import errno
import json
import math
import os
import random
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from mistral_eval.engines.endpoint import Endpoint, proxy_of
from mistral_eval.errors import EngineError

CONNECT_SECONDS: Final = 20.0
LONGEST_BACKOFF: Final = 30.0  # seconds, unless the server asks for more
PATIENCE: Final = 3600.0  # seconds that a request waits in all because the server asks it to
SHOWN: Final = 300  # characters of a server's own words
_REPEATED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_WAITS: Final = frozenset({429, 503})  # with Retry-After, a request to come again, not a failure
_FATAL: Final = frozenset({401, 403, 404, 405})  # the next request would fail in the same way
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class ServerError(EngineError):
    """A server did not answer a request.

    Attributes:
        status: the HTTP status; None if there was no reply.
        said: the server's own words.
        is_fatal: whether every other request would fail too.
    """

    def __init__(
        self, sentence: str, *, status: int | None = None, said: str = "", is_fatal: bool = False
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.said = said
        self.is_fatal = is_fatal


class Client:
    """Sends requests to an endpoint; an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sent = 0  # HTTP requests, repetitions included
        self._url = endpoint.url
        self._stopped = asyncio.Event()
        self._not_before = 0.0  # when the server said that it can be asked again
        self._proxy = proxy_of(endpoint.url)
        self._draw = random.Random()  # noqa: S311 - jitter

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=self.endpoint.in_flight, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(self.endpoint.timeout, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    def interrupt(self) -> None:
        """End all waiting: a request that would be repeated fails instead."""
        self._stopped.set()

    async def get(self, path: str, *, retries: int | None = None) -> Any:
        """Return the JSON at a path below the base URL, or of a whole URL; see `post`."""
        return await self._repeated("GET", path, None, retries)

    async def post(self, path: str, body: Mapping[str, Any], *, retries: int | None = None) -> Any:
        """Post a JSON object and return the reply's JSON.

        Timeouts, broken connections, damaged JSON and the statuses 408, 409, 425, 429 and 5xx are
        repeated, with exponential back-off and jitter. Retry-After of 429 and 503 counts instead,
        for all requests, if it is longer, and uses up no repetition. A server that asks to wait
        for more than `PATIENCE` is not asked again.

        Args:
            path: below the base URL, e.g. "/completions".
            body: a JSON object.
            retries: number of repetitions; None for the endpoint's.

        Raises:
            ServerError: the request failed, or failed too often.
        """
        data = _encode(body).encode()
        return await self._repeated("POST", path, data, retries)

    async def _repeated(
        self, method: str, path: str, data: bytes | None, retries: int | None
    ) -> Any:
        left = self.endpoint.retries if retries is None else retries
        backoff, waited = self.endpoint.backoff, 0.0
        while True:
            await self._pause()
            try:
                return await self._once(method, path, data)
            except _TryAgainError as failed:
                pause = backoff * self._draw.uniform(0.5, 1.0)
                backoff = min(2 * backoff, LONGEST_BACKOFF)
                if failed.after is not None:
                    after = max(failed.after, pause)  # servers say 0, or a time that is over
                    waited += after
                    if waited > PATIENCE or self._stopped.is_set():
                        raise failed.error from failed
                    self._not_before = max(self._not_before, time.monotonic() + after)
                    continue
                if not left or self._stopped.is_set():
                    raise failed.error from failed
                left -= 1
                await self._sleep(pause)
                if self._stopped.is_set():
                    raise failed.error from failed

    async def _pause(self) -> None:
        """Wait until the server wants to be asked again; then not all requests at once."""
        while (wait := self._not_before - time.monotonic()) > 0:
            await self._sleep(wait + self._draw.uniform(0.0, min(1.0, wait / 4)))
            if self._stopped.is_set():
                raise ServerError("The run was stopped while the server asked it to wait.")

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    async def _once(self, method: str, path: str, data: bytes | None) -> Any:
        self.sent += 1
        try:
            # a redirected POST would become a GET, or go on without the key
            async with self._session.request(
                *(method, self._whole(path)),
                data=data,
                proxy=self._proxy,
                allow_redirects=method == "GET",
            ) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unsent(error) from error
        if reply.status != 200:
            raise self._refused(reply.status, reply, path, content)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            sentence = f"The server at {self._url} answered with {self._damage(content)}."
            raise _TryAgainError(ServerError(sentence)) from error
        if isinstance(found, dict) and found.get("error") and "choices" not in found:
            raise self._refused(_status_within(found["error"]), reply, path, content)
        return found

    def _whole(self, path: str) -> str:
        return self._url + path if path.startswith("/") else path

    def _unsent(self, error: Exception) -> Exception:
        """Return the error of a request that got no reply."""
        certificate = error.__cause__ or error
        is_tls = isinstance(error, aiohttp.ClientSSLError | ssl.SSLError)
        if is_tls or isinstance(certificate, ssl.SSLError):
            return ServerError(
                f"The certificate of {self._url} cannot be verified ({_reason(certificate)}). Set "
                "the environment variable SSL_CERT_FILE to a file with the certificate of its "
                "issuer, or use http.",
                is_fatal=True,
            )
        if isinstance(error, aiohttp.InvalidURL):
            return ServerError(
                f"{self._url} is no URL. Correct {self.endpoint.option}.", is_fatal=True
            )
        if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
            what = f"{_proxy_fault(error)} Correct the environment's proxy, or set no_proxy."
        elif isinstance(error, OSError) and error.errno in _NO_FILES:
            what = (
                f"This process may open no more connections ({_reason(error)}). Lower the number "
                "of requests in flight, or raise the limit with `ulimit -n`."
            )
        elif isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            is_late = isinstance(error, aiohttp.ConnectionTimeoutError)
            why = f"no connection within {CONNECT_SECONDS:g} s" if is_late else _reason(error)
            what = (
                f"Nothing answers at {self._url} ({why}). Start the server, or correct "
                f"{self.endpoint.option}."
            )
        elif isinstance(error, TimeoutError):
            what = (
                f"The server at {self._url} did not answer within {self.endpoint.timeout:g} s. "
                f"{self.endpoint.when_slow}"
            )
        elif isinstance(error, aiohttp.ClientResponseError):
            what = f"The server at {self._url} sent what is no reply ({_reason(error)})."
        else:
            what = f"The server at {self._url} broke the connection ({_reason(error)})."
        return _TryAgainError(ServerError(what))

    def _refused(
        self, status: int, reply: aiohttp.ClientResponse, path: str, content: bytes
    ) -> Exception:
        """Return the error of a reply with this status, or of an error in one with status 200."""
        said = self._words(content)
        after = _retry_after(reply.headers.get("Retry-After")) if status in _WAITS else None
        names = " or ".join(self.endpoint.keys)
        if status in (401, 403):
            has = "refuses the API key" if self.endpoint.key else "wants an API key"
            why = _quoted(said) if status == 403 else ""  # 401 may quote a part of the key
            sentence = (
                f"The server at {self._url} {has} (HTTP {status}{why}). Set the environment "
                f"variable {names}."
            )
        elif status in (404, 405):
            sentence = (
                f"There is no {self._whole(path)} (HTTP {status}{_quoted(said)}). Correct "
                f"{self.endpoint.option} or the model's name."
            )
        elif 300 <= status < 400:
            sentence = (
                f"{self._whole(path)} is elsewhere (HTTP {status}{_quoted(_target(reply))}). "
                f"Correct {self.endpoint.option}."
            )
        else:
            wish = f", and asks to wait {after:.0f} s" if after else ""
            how = "with an error" if reply.status == 200 else f"HTTP {status}"
            sentence = f"The server at {self._url} answered {how}{_quoted(said)}{wish}."
        is_fatal = status in _FATAL or 300 <= status < 400
        error = ServerError(sentence, status=status, said=said, is_fatal=is_fatal)
        return _TryAgainError(error, after) if status in _REPEATED else error

    def _words(self, content: bytes) -> str:
        """Return what an error reply says, in one line and without the API key."""
        text = content.decode("utf-8", "replace")
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
            for name in ("error", "message", "detail"):
                found = found.get(name, found) if isinstance(found, dict) else found
            text = found if isinstance(found, str) else json.dumps(found)
        text = self._plain(text)
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

    def _damage(self, content: bytes) -> str:
        """Return what a reply of status 200 is that is no JSON."""
        if not content.strip():
            return "nothing"
        start = self._plain(content[:4096].decode("utf-8", "replace"))[:40]
        return f"{len(content)} bytes that are no JSON ({start!r}...)"

    def _plain(self, text: str) -> str:
        """Return a server's text in one line, without the API key and control characters."""
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "***")
        return " ".join("".join(one if one.isprintable() else " " for one in text).split())


class _TryAgainError(Exception):
    """A request failed in a way that a repetition may cure; `after` is the server's Retry-After."""

    def __init__(self, error: ServerError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


def _proxy_fault(error: Exception) -> str:
    """Return what is wrong with the proxy, without its URL, which may hold a password."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"The proxy refuses the connection (HTTP {error.status})."
    return f"The proxy does not answer ({_reason(error)})."


def _status_within(error: object) -> int:
    """Return the HTTP status that an error within a reply of status 200 stands for."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _target(reply: aiohttp.ClientResponse) -> str:
    """Return where a reply redirects to, without what may be secret: a password, and the query."""
    place = reply.headers.get("Location", "").partition("?")[0]
    return re.sub(r"//[^/@]*@", "//", " ".join(place.split()))


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or an HTTP date; None if it is none."""
    if value is None:
        return None
    with suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with suppress(ValueError, OverflowError):
        then = parsedate_to_datetime(value)
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    return None


def _quoted(said: str) -> str:
    return f": {said.rstrip('.')}" if said else ""


def _reason(error: BaseException) -> str:
    """Return an error's cause in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, aiohttp.ClientResponseError):
        return " ".join(error.message.split())  # without the URL
    code = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else 0
    if code and code > 0:  # those of name resolution are negative
        return os.strerror(code)  # asyncio's own text is "Connect call failed" and a tuple
    text = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(str(text).split()) or type(error).__name__
