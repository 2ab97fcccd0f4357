"""The HTTP client: what is repeated, what is not, how often, and what it says."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mistral_eval.engines.endpoint import Endpoint, key_from_environment
from mistral_eval.engines.http_client import ServerError
from mistral_eval.engines.http_thread import call
from tests.stub_server import Fault, Quirks, Stub, body

QUICK = {"backoff": 0.01, "timeout": 20.0}


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


def test_nothing_listening_is_said(made_up):
    with Stub(made_up) as stub:
        pass
    said = rf"Nothing answers at {stub.url} \(Connection refused\). Start the server"
    with pytest.raises(ServerError, match=said):
        post(stub, retries=1)


def test_a_self_signed_certificate_is_refused_and_may_be_trusted(made_up, tmp_path):
    pem = certificate(tmp_path)
    with Stub(made_up, certificate=pem) as stub:
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


def test_the_key_is_sent_and_never_said(made_up, monkeypatch):
    secret = "sk-very-secret-0123"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    assert key_from_environment() == secret
    with Stub(made_up, Quirks(key=secret)) as stub:
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
