"""The HTTP client: what is repeated, what is not, how often, and what it says."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mistral_eval.engines.endpoint import Endpoint, base_url, key_from_environment
from mistral_eval.engines.http_client import Client, ServerError
from mistral_eval.engines.http_thread import call, post_all, replies_of
from mistral_eval.errors import UsageError
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.native.requests import Sampling
from tests.stub_server import BigramModel, Fault, Quirks, Stub

QUICK = {"backoff": 0.01, "timeout": 20.0}


@pytest.fixture(scope="module")
def model(tiny):
    return BigramModel(tiny.tokenizer)


@pytest.fixture
def stub(model) -> Iterator[Stub]:
    with Stub(model) as opened:
        yield opened


def body(number: int = 0) -> dict[str, object]:
    return {"model": "tiny", "prompt": [1, 400 + number], "max_tokens": 1, "temperature": 0.0}


def post(stub: Stub, **options) -> object:
    endpoint = Endpoint(stub.url, **{**QUICK, **options})
    return call(endpoint, lambda client: client.post("/completions", body()))


def first(fault: Fault, count: int = 1):
    """A fault of the first requests."""
    return lambda number, body: fault if number <= count else None


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        Fault(drop=True),
        Fault(truncate=True),
        Fault(delay=0.6),
    ],
    ids=lambda fault: str(fault.status) if fault.status != 200 else "broken",
)
def test_what_may_pass_is_repeated(stub, fault):
    stub.fault = first(fault, 2)
    assert post(stub, timeout=0.3 if fault.delay else 20.0)["choices"]
    assert len(stub.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_will_not_pass_is_not_repeated(stub, status):
    stub.fault = first(Fault(status, said="no such thing"), 9)
    with pytest.raises(ServerError, match=f"HTTP {status}") as told:
        post(stub)
    assert len(stub.asked) == 1
    assert told.value.status == status
    assert told.value.is_fatal == (status in (401, 403, 404, 405))


def test_repetitions_end_and_wait_longer_each_time(stub):
    stub.fault = first(Fault(500, said="broken for good"), 99)
    began = time.monotonic()
    with pytest.raises(ServerError, match="HTTP 500: broken for good"):
        post(stub, retries=4, backoff=0.1)
    assert len(stub.asked) == 5
    assert time.monotonic() - began > 0.5 * (0.1 + 0.2 + 0.4 + 0.8)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for_and_uses_up_no_repetition(stub, status, form):
    then = datetime.now(UTC) + timedelta(seconds=2)
    value = "1" if form == "seconds" else format_datetime(then, usegmt=True)
    stub.fault = first(Fault(status, {"Retry-After": value}), 1)
    began = time.monotonic()
    assert post(stub, retries=0)["choices"]
    assert 0.9 <= time.monotonic() - began < 6
    assert len(stub.asked) == 2


def test_a_damaged_retry_after_is_as_none(stub):
    stub.fault = first(Fault(429, {"Retry-After": "soon"}), 1)
    assert post(stub)["choices"]
    stub.fault = first(Fault(429, {"Retry-After": "soon"}), 99)
    with pytest.raises(ServerError, match="HTTP 429"):
        post(stub, retries=0)


def test_all_requests_wait_when_the_server_asks_one_to(stub):
    times = []

    def fault(number, body):
        times.append(time.monotonic())
        return Fault(429, {"Retry-After": "1"}) if number == 1 else Fault(delay=0.05)

    stub.fault = fault
    endpoint = Endpoint(stub.url, in_flight=1, **QUICK)
    found = dict(post_all(endpoint, "/completions", map(body, range(3))))
    assert all("choices" in reply for reply in found.values())
    assert times[1] - times[0] > 0.9


@pytest.mark.parametrize("limit", [1, 7])
def test_no_more_requests_are_in_flight_than_allowed(stub, limit):
    stub.fault = lambda number, body: Fault(delay=0.02)
    endpoint = Endpoint(stub.url, in_flight=limit, **QUICK)
    found = dict(post_all(endpoint, "/completions", map(body, range(40))))
    assert len(found) == 40
    assert stub.most == limit


def test_outcomes_come_as_they_arrive_and_under_their_index(stub, tiny):
    stub.fault = lambda number, body: Fault(delay=0.5 if body["prompt"][1] == 400 else 0.0)
    endpoint = Endpoint(stub.url, **QUICK)
    order = []
    for index, reply in post_all(endpoint, "/completions", map(body, range(12))):
        order.append(index)
        prompt = [1, 400 + index]
        new, _ = stub.model.generate(prompt, 1, Sampling(), 0, ())
        expected = continuation_text(tiny.tokenizer, prompt, new)
        assert reply["choices"][0]["text"] == expected
    assert order[-1] == 0
    assert sorted(order) == list(range(12))


def test_one_that_fails_is_an_outcome_and_the_others_are_answered(stub):
    stub.fault = lambda number, body: Fault(400) if body["prompt"][1] == 405 else None
    found = dict(post_all(Endpoint(stub.url, **QUICK), "/completions", map(body, range(12))))
    assert isinstance(found.pop(5), ServerError)
    assert all("choices" in reply for reply in found.values())
    assert len(found) == 11


def test_a_stop_ends_what_is_in_flight_and_begins_nothing_else(stub):
    stub.fault = lambda number, body: Fault(delay=0.2)
    wanted = threading.Event()
    endpoint = Endpoint(stub.url, in_flight=4, **QUICK)
    found = []
    for outcome in post_all(endpoint, "/completions", map(body, range(100)), wanted.is_set):
        found.append(outcome)
        wanted.set()
    assert 4 <= len(found) <= 8
    assert len(stub.asked) == len(found)


def test_a_stop_does_not_wait_for_a_server_that_asks_for_an_hour(stub):
    stub.fault = first(Fault(429, {"Retry-After": "3000"}), 99)
    wanted = threading.Event()
    threading.Timer(0.5, wanted.set).start()
    began = time.monotonic()
    ((_, outcome),) = post_all(Endpoint(stub.url, **QUICK), "/completions", [body()], wanted.is_set)
    assert isinstance(outcome, ServerError)
    assert time.monotonic() - began < 10


def test_a_caller_that_goes_away_cancels_what_is_in_flight(stub):
    stub.fault = lambda number, body: Fault(delay=0.0 if number == 1 else 5.0)
    began = time.monotonic()
    outcomes = post_all(Endpoint(stub.url, **QUICK), "/completions", map(body, range(8)))
    next(outcomes)
    outcomes.close()
    assert time.monotonic() - began < 4
    assert not [one for one in threading.enumerate() if one.name == "requests"]


def test_a_bug_in_a_job_is_raised_in_the_callers_thread(stub):
    async def broken(client: Client) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(replies_of(Endpoint(stub.url, **QUICK), [(0, broken)]))


def test_nothing_listening_is_said(model):
    with Stub(model) as stub:
        pass
    with pytest.raises(ServerError, match=f"Nothing answers at {stub.url} .* Start the server"):
        post(stub, retries=1)


def test_a_self_signed_certificate_is_refused_and_may_be_trusted(model, tmp_path):
    pem = certificate(tmp_path)
    with Stub(model, certificate=pem) as stub:
        with pytest.raises(ServerError, match=r"cannot be verified .*SSL_CERT_FILE") as told:
            post(stub)
        assert told.value.is_fatal
        assert stub.asked == []
        # aiohttp makes its default context once per process, so the variable counts in a new one
        program = (
            "from mistral_eval.engines.endpoint import Endpoint\n"
            "from mistral_eval.engines.http_thread import call\n"
            f"print(call(Endpoint({stub.url!r}), lambda client: client.get('/models'))['object'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "SSL_CERT_FILE": pem},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "list\n"


def certificate(folder) -> str:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    both.write_text(key.read_text() + cert.read_text())
    return str(both)


def test_the_key_is_sent_and_never_said(model, monkeypatch):
    secret = "sk-very-secret-0123"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    assert key_from_environment() == secret
    with Stub(model, Quirks(key=secret)) as stub:
        endpoint = Endpoint(stub.url, key=key_from_environment(), **QUICK)
        assert call(endpoint, lambda client: client.post("/completions", body()))["choices"]
        assert secret not in repr(endpoint)
        stub.fault = first(Fault(400, said=f"Incorrect API key provided: {secret}"), 9)
        with pytest.raises(ServerError) as told:
            call(endpoint, lambda client: client.post("/completions", body()))
        assert secret not in str(told.value) + told.value.said
        assert "***" in str(told.value)
        wrong = Endpoint(stub.url, key="sk-wrong", **QUICK)
        with pytest.raises(ServerError, match=r"refuses the API key \(HTTP 401\)"):
            call(wrong, lambda client: client.post("/completions", body()))
        with pytest.raises(ServerError, match=r"wants an API key .*MISTRAL_EVAL_API_KEY"):
            post(stub)


def test_our_own_variable_wins(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.setenv("MISTRAL_EVAL_API_KEY", "ours")
    assert key_from_environment() == "ours"


@pytest.mark.parametrize(
    "given",
    [
        "http://h:1",
        "http://h:1/",
        "http://h:1/v1",
        "http://h:1/v1/",
        "http://h:1/v1/completions",
        "http://h:1/v1/chat/completions/",
    ],
)
def test_a_base_url_may_be_written_in_every_usual_way(given):
    assert base_url(given) == "http://h:1/v1"


def test_a_path_of_its_own_is_kept():
    assert base_url("https://h/proxy/openai/v1") == "https://h/proxy/openai/v1"


@pytest.mark.parametrize("given", ["", "h:1/v1", "ftp://h/v1", "http://", "http:///v1"])
def test_what_is_no_url_is_refused(given):
    with pytest.raises(UsageError, match="--base-url should be like"):
        base_url(given)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="should hold no password") as told:
        base_url("http://me:hunter2@h:1/v1")
    assert "hunter2" not in str(told.value)


def test_a_fault_before_the_first_job_reaches_the_caller():
    """The caller waits for the thread, so a fault there must not leave it waiting."""
    endpoint = Endpoint("http://[::1", **QUICK)
    with pytest.raises(ValueError, match="Invalid IPv6"):
        list(post_all(endpoint, "/completions", [body()]))


@pytest.mark.parametrize("given", ["http://[::1", "http://localhost:port/v1", "http://h:99999"])
def test_an_url_that_cannot_be_read_is_refused_in_a_sentence(given):
    with pytest.raises(UsageError, match="should be like http://localhost:8000/v1"):
        base_url(given)
