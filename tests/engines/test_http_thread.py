"""Many requests at a time: their outcomes, their order, and how they end."""

import threading
import time

import pytest

from mistral_eval.engines.endpoint import Endpoint
from mistral_eval.engines.http_client import Client, ServerError
from mistral_eval.engines.http_thread import post_all, replies_of
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.native.requests import Sampling
from tests.stub_server import Fault, body

QUICK = {"backoff": 0.01, "timeout": 20.0}


def first(fault: Fault, count: int = 1):
    """A fault of the first requests."""
    return lambda number, body: fault if number <= count else None


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


def test_a_fault_before_the_first_job_reaches_the_caller():
    """The caller waits for the thread, so a fault there must not leave it waiting."""
    endpoint = Endpoint("http://[::1", **QUICK)
    with pytest.raises(ValueError, match="Invalid IPv6"):
        list(post_all(endpoint, "/completions", [body()]))
