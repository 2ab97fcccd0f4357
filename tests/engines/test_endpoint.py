"""Where a server is and its key: what the command line and the environment may say."""

import pytest

from mistral_eval.engines.endpoint import base_url, key_from_environment
from mistral_eval.errors import UsageError

PASSWORD = "hunter2"


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


@pytest.mark.parametrize("given", ["http://[::1", "http://localhost:port/v1", "http://h:99999"])
def test_an_url_that_cannot_be_read_is_refused_in_a_sentence(given):
    with pytest.raises(UsageError, match="should be like http://localhost:8000/v1"):
        base_url(given)


@pytest.mark.parametrize(
    "given",
    [
        f"me:{PASSWORD}@host:8000/v1",
        f"http://me:{PASSWORD}@host:port/v1",
        f"http://me:{PASSWORD}@[host/v1",
        f"ftp://{PASSWORD}@host/v1",
        f"http://host/v1?api-key={PASSWORD}",
        f"host/v1?key={PASSWORD}",
    ],
)
def test_a_secret_in_an_url_is_refused_and_not_said(given):
    with pytest.raises(UsageError, match=r"kept in run\.json") as told:
        base_url(given)
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize("key", ["sk-a\nsk-b", "sk\u2026", "two words", "sk-\x07"])
def test_a_key_that_no_request_can_carry_is_refused_and_not_said(key, monkeypatch):
    monkeypatch.delenv("MISTRAL_EVAL_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY should hold one API key") as told:
        key_from_environment()
    assert key not in str(told.value)
