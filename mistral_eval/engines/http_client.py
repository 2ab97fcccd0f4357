"""Post JSON to an HTTP server, many requests at a time, with retries.

`Endpoint` says where and how, `Client` sends one request and repeats it as long as that can help,
and `replies_of` runs many in a thread and yields each outcome as it arrives. Nothing here knows
what is asked.

The API key comes from the environment only and appears in no message.
"""

import asyncio
import errno
import json
import math
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from mistral_eval.errors import EngineError, UsageError
from mistral_eval.native.requests import Stop, never

KEYS: Final = ("MISTRAL_EVAL_API_KEY", "OPENAI_API_KEY")  # environment variables; the first wins
CONNECT_SECONDS: Final = 20.0
LONGEST_BACKOFF: Final = 30.0  # seconds, unless the server asks for more
PATIENCE: Final = 3600.0  # seconds that a request waits in all because the server asks it to
POLL_SECONDS: Final = 0.1
WAITING: Final = 4096  # outcomes that may wait for the caller, so that memory is bounded
SHOWN: Final = 300  # characters of a server's own words
_REPEATED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_WAITS: Final = frozenset({429, 503})  # with Retry-After, a request to come again, not a failure
_FATAL: Final = frozenset({401, 403, 404, 405})  # the next request would fail in the same way
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_KEY: Final = re.compile(r"[!-~]+")  # what a header takes, without spaces

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
Outcome = TypeVar("Outcome")
Job: TypeAlias = Callable[["Client"], Awaitable[Outcome]]


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


class Client:
    """Sends requests to an endpoint; an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sent = 0  # HTTP requests, repetitions included
        self._url = endpoint.url
        self._stopped = asyncio.Event()
        self._not_before = 0.0  # when the server said that it can be asked again
        self._proxy = _proxy_of(endpoint.url)
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
        """Return the error of a reply with this status, which is not 200."""
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
            sentence = f"The server at {self._url} answered HTTP {status}{_quoted(said)}{wish}."
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


def replies_of(
    endpoint: Endpoint,
    jobs: Iterable[tuple[int, Job[Outcome]]],
    stop: Stop = never,
) -> Iterator[tuple[int, Outcome | EngineError]]:
    """Do jobs at an endpoint, `endpoint.in_flight` at a time; yield each outcome as it arrives.

    The requests run in a thread of their own, so that they go on while the caller works. If the
    caller closes the generator, those in flight are cancelled.

    Args:
        endpoint: the server.
        jobs: an index and a coroutine function, which asks the client and returns the outcome;
            taken one by one, in the thread.
        stop: asked in the caller's thread, at each outcome and several times a second; once True,
            jobs in flight end, no request is repeated and no other begins.

    Yields:
        The job's index, and its outcome or the EngineError that it raised.
    """
    thread = _Thread(endpoint, jobs)
    thread.start()
    try:
        while True:
            if stop():
                thread.interrupt()
            try:
                item = thread.done.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if item is None:
                break
            yield item
    finally:
        thread.end()
    if thread.fault is not None:
        raise thread.fault


def post_all(
    endpoint: Endpoint, path: str, bodies: Iterable[Mapping[str, Any]], stop: Stop = never
) -> Iterator[tuple[int, Any]]:
    """Post JSON objects to one path; yield (index, the reply's JSON or an EngineError)."""

    def job(body: Mapping[str, Any]) -> Job[Any]:
        return lambda client: client.post(path, body)

    yield from replies_of(endpoint, ((n, job(body)) for n, body in enumerate(bodies)), stop)


def call(endpoint: Endpoint, job: Job[Outcome]) -> Outcome:
    """Do one job and return its outcome.

    Raises:
        EngineError: the job raised it.
    """
    ((_, outcome),) = replies_of(endpoint, [(0, job)])
    if isinstance(outcome, EngineError):
        raise outcome
    return outcome


class _TryAgainError(Exception):
    """A request failed in a way that a repetition may cure; `after` is the server's Retry-After."""

    def __init__(self, error: ServerError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class _Thread(threading.Thread):
    """Runs jobs in an event loop; their outcomes arrive in `done`, None at the end."""

    def __init__(self, endpoint: Endpoint, jobs: Iterable[tuple[int, Job[Any]]]) -> None:
        super().__init__(name="requests", daemon=True)
        self.done: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()
        self.fault: BaseException | None = None
        self._endpoint = endpoint
        self._jobs = iter(jobs)
        self._interrupted = False
        self._loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def run(self) -> None:
        """Run all jobs; keep an error that is a bug for the caller's thread."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            self.fault = group.exceptions[0]
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            self.fault = error
        finally:
            self.done.put(None)  # the caller waits for it

    def interrupt(self) -> None:
        """Begin no further job, and let no request be repeated any more."""
        self._interrupted = True
        if self._client is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._client.interrupt)

    def end(self) -> None:
        """Cancel what is in flight and wait for the thread."""
        self._ended = True
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()

    async def _all(self) -> None:
        self._task = asyncio.current_task()
        if self._ended:
            return
        async with Client(self._endpoint) as self._client, asyncio.TaskGroup() as group:
            for _ in range(self._endpoint.in_flight):
                group.create_task(self._work(self._client))

    async def _work(self, client: Client) -> None:
        """Take jobs until there is none, or the caller wants to stop."""
        while not self._interrupted:
            index, job = next(self._jobs, (0, None))
            if job is None:
                return
            try:
                outcome = await job(client)
            except EngineError as error:
                outcome = error
            self.done.put((index, outcome))
            await self._let_caller_catch_up()

    async def _let_caller_catch_up(self) -> None:
        while self.done.qsize() > WAITING and not self._ended:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(POLL_SECONDS)


def _proxy_of(url: str) -> str | None:
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
    text = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(str(text).split()) or type(error).__name__
