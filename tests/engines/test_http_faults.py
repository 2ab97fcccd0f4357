"""What servers, proxies and environments do wrong below the replies: one sentence each, no secret.

The server here answers with any bytes, which the stub of the completions server does not.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mistral_eval.engines import http_client
from mistral_eval.engines.endpoint import Endpoint
from mistral_eval.engines.http_client import ServerError
from mistral_eval.engines.http_thread import call, post_all
from mistral_eval.errors import MistralEvalError

SECRET = "sk-not-to-be-seen-0815"
PASSWORD = "hunter2"
Answer = tuple[int, dict[str, str], bytes]
WELL: Answer = (200, {}, b'{"choices":[]}')


class Raw(ThreadingHTTPServer):
    """A server that answers each request as `answer`, of its path, says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], Answer] = lambda path: WELL
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.host}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        status, headers, content = self.server.answer(self.path)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def do_CONNECT(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def raw() -> Iterator[Raw]:
    server = Raw()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def fails(url: str, **options) -> str:
    """The sentence of a request that must fail, and that must not have its secrets."""
    endpoint = Endpoint(url, **{"backoff": 0.01, "timeout": 20.0, "retries": 1, **options})
    with pytest.raises(MistralEvalError) as told:
        call(endpoint, lambda client: client.post("/completions", {}))
    said = str(told.value)
    assert SECRET not in said
    assert PASSWORD not in said
    assert said.isprintable()
    assert said.endswith(".")
    return said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirected_request_is_not_sent_on(raw, status):
    """It would become a GET, lose its key, or go to a server that nobody named."""
    target = f"http://me:{PASSWORD}@elsewhere.example/v1/completions?key={SECRET}"
    raw.answer = lambda path: (status, {"Location": target}, b"")
    said = fails(raw.url)
    assert f"HTTP {status}: http://elsewhere.example/v1/completions). Correct --base-url" in said
    assert raw.asked == [("POST", "/v1/completions")]


@pytest.mark.parametrize(
    "value", ["0", "-5", "0.001", "Wed, 21 Oct 2015 07:28:00 GMT", "1 Jan 0001 00:00:00 +2359"]
)
def test_a_server_that_asks_to_wait_no_time_is_not_asked_without_a_pause(raw, value):
    raw.answer = lambda path: (429, {"Retry-After": value}, b"{}")
    began = time.monotonic()
    endpoint = Endpoint(raw.url, backoff=0.2, retries=0)
    ((_, outcome),) = post_all(
        endpoint, "/completions", [{}], lambda: time.monotonic() - began > 1.5
    )
    assert isinstance(outcome, ServerError)
    assert 2 <= len(raw.asked) <= 6
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("value", ["86400", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_server_that_asks_to_wait_for_a_day_is_not_asked_again(raw, value):
    raw.answer = lambda path: (429, {"Retry-After": value}, b'{"error":"quota"}')
    assert "HTTP 429: quota, and asks to wait " in fails(raw.url, retries=5)
    assert len(raw.asked) == 1


@pytest.mark.parametrize("value", ["nan", "inf", "1 2 3 4 5 6 7", "Wed, 99 Oct 2026 99:28:00 GMT"])
def test_a_retry_after_that_is_no_time_is_as_none(raw, value):
    raw.answer = lambda path: (429, {"Retry-After": value}, b"{}")
    assert "HTTP 429" in fails(raw.url, retries=2)
    assert len(raw.asked) == 3


def test_who_wakes_up_asks_whether_to_wait_on(raw):
    """Two requests wait; the first to be refused again keeps the other waiting too."""
    times = []

    def answer(path: str) -> Answer:
        times.append(time.monotonic())
        return (429, {"Retry-After": "1"}, b"{}") if len(times) <= 3 else WELL

    raw.answer = answer
    found = dict(post_all(Endpoint(raw.url, in_flight=2), "/completions", [{}, {}]))
    assert len(found) == 2
    assert times[-1] - times[2] > 0.7


@pytest.mark.parametrize(
    ("content", "asked", "sentence"),
    [
        (
            b'{"error":{"message":"upstream busy","code":429}}',
            3,
            "answered with an error: upstream busy",
        ),
        (b'{"error":{"message":"upstream broke"}}', 3, "answered with an error: upstream broke"),
        (b'{"error":{"message":"too long","code":400}}', 1, "answered with an error: too long"),
        (b"[" * 200_000, 3, "200000 bytes that are no JSON"),
        (b'data: {"choices":[]}\n\n', 3, "bytes that are no JSON ('data: "),
        (b"", 3, "answered with nothing"),
        (f"Authorization: Bearer {SECRET}".encode(), 3, "no JSON ('Authorization: Bearer ***'"),
    ],
    ids=["busy", "broken", "refused", "deep", "streamed", "empty", "with the key"],
)
def test_what_comes_with_status_200_and_is_no_reply(raw, content, asked, sentence):
    raw.answer = lambda path: (200, {}, content)
    assert sentence in fails(raw.url, retries=2, key=SECRET)
    assert len(raw.asked) == asked


def test_the_servers_words_cannot_steer_a_terminal(raw):
    raw.answer = lambda path: (400, {}, b'{"error":"\\u001b[31mred\\u0007\\nbell"}')
    assert "HTTP 400: [31mred bell" in fails(raw.url)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br"])
def test_a_compressed_reply_that_cannot_be_read_is_repeated(raw, encoding):
    raw.answer = lambda path: (200, {"Content-Encoding": encoding}, b"nothing of the kind")
    fails(raw.url)
    assert len(raw.asked) == 2


def test_a_filter_says_why_it_refuses(raw):
    raw.answer = lambda path: (403, {}, b'{"error":"blocked by rule 17"}')
    assert "(HTTP 403: blocked by rule 17)" in fails(raw.url, key=SECRET)


# ---------------------------------------------------------------- proxies


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_named_as_such(scheme, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{PASSWORD}@127.0.0.1:{port}")
    said = fails(f"{scheme}://example.org/v1")
    assert said.startswith("The proxy does not answer (")
    assert "set no_proxy" in said


def test_a_proxy_that_refuses_is_named_without_its_password(raw, monkeypatch):
    raw.answer = lambda path: (407, {}, b"who are you?")
    monkeypatch.setenv("https_proxy", f"http://me:{PASSWORD}@{raw.host}")
    said = fails("https://example.org/v1")
    assert said.startswith("The proxy refuses the connection (HTTP 407).")
    assert {command for command, _ in raw.asked} == {"CONNECT"}


def test_a_proxy_may_be_named_without_a_scheme(raw, monkeypatch):
    monkeypatch.setenv("http_proxy", raw.host)
    endpoint = Endpoint("http://example.org/v1")
    assert call(endpoint, lambda client: client.post("/completions", {})) == {"choices": []}
    assert raw.asked == [("POST", "http://example.org/v1/completions")]


def test_a_proxy_that_is_none_of_http_is_refused(raw, monkeypatch):
    monkeypatch.setenv("http_proxy", f"socks5://me:{PASSWORD}@{raw.host}")
    assert "http_proxy should name a proxy like http://HOST:PORT" in fails(raw.url)


# ---------------------------------------------------------------- connections


def test_a_server_that_takes_no_connection_is_not_called_slow(monkeypatch):
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        said = fails(f"http://127.0.0.1:{address[1]}/v1", retries=0)
        for one in waiting:
            one.close()
    assert "Nothing answers at" in said
    assert "no connection within 0.3 s" in said


def test_too_few_files_for_the_requests_in_flight_are_named(raw):
    raw.answer = lambda path: time.sleep(0.5) or WELL
    program = (
        "import resource\n"
        "from mistral_eval.engines.endpoint import Endpoint\n"
        "from mistral_eval.engines.http_thread import post_all\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        f"endpoint = Endpoint({raw.url!r}, in_flight=40, retries=0)\n"
        "for _, outcome in post_all(endpoint, '/completions', [{}] * 40):\n"
        "    print(outcome)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    failed = {line for line in lines if "choices" not in line}
    assert len(failed) == 1
    assert "Too many open files" in min(failed)
    assert "`ulimit -n`" in min(failed)
