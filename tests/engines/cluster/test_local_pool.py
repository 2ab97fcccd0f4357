"""Workers on this machine, as real processes of the tiny model."""

import os
import random
import signal
import threading
import time

import pytest

from mistral_eval.engines.cluster import local_pool, pools, scheduler, team
from mistral_eval.engines.cluster.engine import ClusterEngine
from mistral_eval.engines.cluster.local_pool import LocalPool
from mistral_eval.engines.cluster.team import Patience
from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.engines.native import NativeEngine
from mistral_eval.errors import CheckpointError, EngineError, UnansweredError, UsageError
from mistral_eval.settings import RunSettings
from tests.processes import children, is_alive

TINY = RunSettings(tasks=("piqa",), model="tiny", engine="native", device="cpu", workers="2")
SAMPLED = GenerationSettings(until=("\n\n",), max_tokens=24, temperature=0.7)


def no_gold(request, right):
    raise AssertionError(request)


def score_requests(count=60):
    return [
        Request("piqa", n // 2, n % 2, 0, "score", f"Question {n // 6}: {n // 2}?", f" answer {n}")
        for n in range(count)
    ]


def sampled_requests(questions=12, samples=4):
    return [
        Request("gsm8k", n, 0, k, "generate", f"Question: {n} and {n}?\nAnswer:", "", SAMPLED)
        for n in range(questions)
        for k in range(samples)
    ]


@pytest.fixture(scope="module")
def alone():
    """The replies of one process, by kind."""
    engine = NativeEngine.open(TINY, no_gold, lambda _: None)
    return {
        "score": answers(engine, score_requests()),
        "generate": answers(engine, sampled_requests()),
    }


@pytest.fixture(scope="module")
def engine():
    opened = ClusterEngine.open(TINY, no_gold, lambda _: None)
    yield opened
    opened.close()


def answers(engine, requests, known=(), stop=lambda: False):
    return dict(engine.answer([engine.encode(request) for request in requests], known, stop))


def same(found, expected):
    assert found.keys() == expected.keys()
    for n, reply in expected.items():
        assert (found[n].text, found[n].ids, found[n].finish) == (
            reply.text,
            reply.ids,
            reply.finish,
        )
        assert found[n].logprob == pytest.approx(reply.logprob, abs=1e-5)
        assert found[n].is_greedy == reply.is_greedy


def workers(engine):
    """The live worker processes of one engine."""
    return children(engine._team.pool._process.pid)


@pytest.mark.parametrize("kind", ["score", "generate"])
def test_replies_are_those_of_one_process(engine, alone, kind):
    requests = score_requests() if kind == "score" else sampled_requests()
    same(answers(engine, requests), alone[kind])


def test_the_identity_is_the_engines_own(engine):
    one = NativeEngine.open(TINY, no_gold, lambda _: None)
    assert engine.identity.fingerprint == one.identity.fingerprint
    for request in (*score_requests(2), *sampled_requests(1, 1)):
        assert engine.encode(request).parts == one.encode(request).parts


def test_known_requests_are_not_answered_again(engine, alone):
    known = set(range(0, 60, 3))
    before = engine.counters.score_unique
    found = answers(engine, score_requests(), known)
    same(found, {n: reply for n, reply in alone["score"].items() if n not in known})
    assert engine.counters.score_unique > before


def test_a_check_is_done_by_a_worker(engine, alone):
    request = score_requests()[7]
    found = engine.check(engine.encode(request), alone["score"][7])
    assert not found.fault
    wrong = alone["score"][8]
    assert engine.check(engine.encode(request), wrong).fault


@pytest.mark.slow
def test_an_idle_worker_that_hangs_does_not_hold_up_the_others(monkeypatch, alone):
    """Its socket takes a small message but not a shard: what is sent must not wait for ever."""
    monkeypatch.setattr(local_pool, "STALL_SECONDS", 1)
    said = []
    engine = ClusterEngine.open(TINY, no_gold, said.append, Patience(least=2.0, most=4.0))
    try:
        same(answers(engine, score_requests()), alone["score"])
        os.kill(next(iter(engine._team.pool._pids.values())), signal.SIGSTOP)
        long = [
            Request("piqa", n, 0, 0, "score", f"{'word ' * 400} {n}", f" answer {n}")
            for n in range(600)
        ]
        found = answers(engine, long)
    finally:
        engine.close()
    assert found.keys() == set(range(600))
    assert any("seconds of silence" in line for line in said)


def test_a_check_whose_worker_dies_is_asked_of_another(engine, alone):
    replies = alone["score"]
    for n in range(4):
        os.kill(random.Random(n).choice(workers(engine)), signal.SIGKILL)
        item = engine.encode(score_requests()[n])
        assert not engine.check(item, replies[n]).fault
        assert engine.check(item, replies[n + 10]).fault  # no answer to an earlier question


def test_twenty_kills_change_nothing(monkeypatch, alone):
    monkeypatch.setattr(scheduler, "DEATHS", 21)  # kills at random may all fall on one request
    said = []
    engine = ClusterEngine.open(TINY, no_gold, said.append)
    rng = random.Random(0)
    kills = 0
    try:
        while kills < 20:
            for kind, requests in (("generate", sampled_requests()), ("score", score_requests())):
                found = {}
                for n, reply in engine.answer([engine.encode(request) for request in requests]):
                    assert n not in found
                    found[n] = reply
                    if rng.random() < 0.1 and (pids := workers(engine)):
                        kills += 1
                        os.kill(rng.choice(pids), signal.SIGKILL)
                same(found, alone[kind])
    finally:
        engine.close()
    assert any("died by signal 9 (SIGKILL); another one takes its place" in line for line in said)


def test_the_process_that_forks_may_die_too(alone):
    engine = ClusterEngine.open(TINY, no_gold, lambda _: None)
    try:
        engine._team.pool._process.kill()
        same(answers(engine, score_requests()), alone["score"])
    finally:
        engine.close()


KILLER = """
import os, signal
from mistral_eval.engines.native import NativeEngine
answer = NativeEngine.answer
def deadly(self, encoded, known=(), stop=None):
    for index, reply in answer(self, encoded, known, stop):
        if encoded[index].request.doc_id == 17:
            {act}
        yield index, reply
NativeEngine.answer = deadly
from mistral_eval.engines.cluster.local_worker import main; main()
"""


def patched(monkeypatch, act):
    """Let workers act on the reply to question 17."""
    monkeypatch.setattr(LocalPool, "program", KILLER.format(act=act))


def test_a_request_that_kills_workers_is_left_out_and_named(monkeypatch, alone):
    patched(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    engine = ClusterEngine.open(TINY, no_gold, lambda _: None)
    requests = score_requests()
    found = {}
    try:
        with pytest.raises(UnansweredError) as error:
            found.update(engine.answer([engine.encode(request) for request in requests]))
    finally:
        engine.close()
    lost = {n for n, request in enumerate(requests) if request.doc_id == 17}
    assert {n for n, _ in error.value.failures} == lost
    assert "3 workers died while they had nothing else" in error.value.failures[0][1]
    same(found, {n: reply for n, reply in alone["score"].items() if n not in lost})


def test_an_error_of_the_device_ends_the_worker_and_its_cause_is_said(monkeypatch):
    patched(monkeypatch, "raise RuntimeError('CUDA error: an illegal memory access')")
    said = []
    engine = ClusterEngine.open(TINY, no_gold, said.append)
    try:
        with pytest.raises(UnansweredError) as error:
            answers(engine, score_requests())
    finally:
        engine.close()
    assert "after an error (CUDA error: an illegal memory access)" in error.value.failures[0][1]
    deaths = [line for line in said if "died" in line]
    assert deaths
    assert all("CUDA error" in line for line in deaths)  # each is said once, with its cause


def test_a_fault_that_nobody_foresaw_is_said_with_its_cause(monkeypatch):
    patched(monkeypatch, "raise KeyError('layers.7')")
    engine = ClusterEngine.open(TINY, no_gold, lambda _: None)
    try:
        with pytest.raises(UnansweredError) as error:
            answers(engine, score_requests())
    finally:
        engine.close()
    assert "with status 1 (KeyError: 'layers.7')" in error.value.failures[0][1]


def test_a_worker_that_hangs_is_replaced(monkeypatch, tmp_path, alone):
    flag = tmp_path / "hung"
    act = f"import pathlib, time; p = pathlib.Path({str(flag)!r}); n = p.exists(); p.touch(); n or time.sleep(999)"  # noqa: E501
    patched(monkeypatch, act)
    said = []
    patience = Patience(least=2.0, most=4.0)
    engine = ClusterEngine.open(TINY, no_gold, said.append, patience)
    try:
        same(answers(engine, score_requests()), alone["score"])
    finally:
        engine.close()
    assert any("seconds of silence" in line for line in said)


STALLER = """
import os, pathlib, signal, struct
from multiprocessing.connection import Connection
flag, send = pathlib.Path({flag!r}), Connection._send_bytes
def stall(self, message):
    data = bytes(message)
    if b"Answered" in data and not flag.exists():
        flag.touch()
        os.write(self.fileno(), struct.pack("!i", len(data)) + data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGSTOP)
    send(self, message)
Connection._send_bytes = stall
from mistral_eval.engines.cluster.local_worker import main; main()
"""


def test_a_worker_that_hangs_inside_a_message_is_replaced(monkeypatch, tmp_path, alone):
    monkeypatch.setattr(local_pool, "STALL_SECONDS", 1)
    monkeypatch.setattr(LocalPool, "program", STALLER.format(flag=str(tmp_path / "stalled")))
    said = []
    engine = ClusterEngine.open(TINY, no_gold, said.append)
    try:
        same(answers(engine, score_requests()), alone["score"])
    finally:
        engine.close()
    assert sum("in the middle of a message; another one" in line for line in said) == 1


def test_workers_that_spoke_while_the_driver_was_held_up_are_not_replaced(alone):
    said = []
    engine = ClusterEngine.open(TINY, no_gold, said.append, Patience(least=4.0, most=4.0))
    found = {}
    try:
        for n, reply in engine.answer([engine.encode(one) for one in score_requests()]):
            if not found:
                time.sleep(5)  # e.g. the replies log, on a slow disk
            found[n] = reply
    finally:
        engine.close()
    same(found, alone["score"])
    assert not any("seconds of silence" in line for line in said)


def test_workers_that_all_die_end_the_run_with_a_sentence(monkeypatch):
    monkeypatch.setattr(
        LocalPool,
        "program",
        KILLER.format(act="pass").replace(
            "for index, reply in answer", "os._exit(3)\n    for index, reply in answer"
        ),
    )
    engine = ClusterEngine.open(TINY, no_gold, lambda _: None)
    try:
        with pytest.raises(EngineError, match="have died one after the other without any reply"):
            answers(engine, score_requests(400))
    finally:
        engine.close()


def test_a_first_worker_that_always_dies_is_said(monkeypatch):
    program = "import os, sys; print('no such library', file=sys.stderr); os._exit(4)"
    monkeypatch.setattr(LocalPool, "program", program)
    said = r"3 workers died while they opened the engine, the last one .*\(no such library\)"
    with pytest.raises(EngineError, match=said):
        ClusterEngine.open(TINY, no_gold, lambda _: None)


def test_a_process_that_is_killed_while_it_loads_the_model_is_said_with_the_signal(monkeypatch):
    program = """
import os, signal
from mistral_eval.engines.native import NativeEngine
NativeEngine.open = classmethod(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
from mistral_eval.engines.cluster.local_worker import main; main()
"""
    monkeypatch.setattr(LocalPool, "program", program)
    with pytest.raises(EngineError, match=r"the last one by signal 9 \(SIGKILL\)"):
        ClusterEngine.open(TINY, no_gold, lambda _: None)


def test_stopping_ends_after_the_pass_in_flight(engine, alone):
    asked = sampled_requests(40, 4)
    begun = time.monotonic()
    seen = []

    def stop():
        return time.monotonic() - begun > 0.5

    for n, _ in engine.answer([engine.encode(request) for request in asked], (), stop):
        seen.append(n)
    assert len(seen) < len(asked)
    same(answers(engine, score_requests()), alone["score"])  # it goes on afterwards


def test_replies_of_a_call_that_was_given_up_are_not_those_of_the_next(engine, alone):
    requests = sampled_requests(40, 4)
    given_up = engine.answer([engine.encode(request) for request in requests])
    next(given_up)
    given_up.close()
    same(answers(engine, score_requests()), alone["score"])


def test_a_model_that_cannot_be_opened_is_said_once(tmp_path):
    settings = TINY.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(CheckpointError, match="config"):
        ClusterEngine.open(settings, no_gold, lambda _: None)


def test_a_wait_for_the_first_worker_is_said_once(monkeypatch):
    monkeypatch.setattr(team, "OPENING_SECONDS", 0.0)
    said = []
    ClusterEngine.open(TINY, no_gold, said.append).close()
    assert len([one for one in said if one.startswith("No worker has opened its engine")]) == 1


@pytest.mark.parametrize(("more", "is_refused"), [(0, False), (1, True)])
def test_more_workers_than_files_may_be_open_are_refused(monkeypatch, more, is_refused):
    monkeypatch.setattr(pools.resource, "getrlimit", lambda _: (1000, 4096))
    settings = TINY.model_copy(update={"workers": str(1000 - pools.OTHER_FILES + more)})
    if not is_refused:
        pools.check_workers(settings)
        return
    with pytest.raises(UsageError, match="an open file for each worker, and a process may have"):
        pools.check_workers(settings)


@pytest.mark.parametrize("held_up", [0.0, 1.0])
def test_nothing_is_left_behind(held_up):
    """Whether the workers have ended before the process that forks them hears of it or not."""
    engine = ClusterEngine.open(TINY, no_gold, lambda _: None)
    answers(engine, score_requests(8))
    process = engine._team.pool._process
    pids = set(engine._team.pool._pids.values())
    assert pids
    if held_up:
        process.send_signal(signal.SIGSTOP)
        threading.Timer(held_up, process.send_signal, [signal.SIGCONT]).start()
    engine.close()
    assert process.returncode == 0
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("workers_", "cores", "omp", "expected"),
    [("auto", 8, "", (8, 1)), ("2", 8, "", (2, 4)), ("3", 8, "2", (3, 2)), ("16", 8, "", (16, 1))],
)
def test_threads_are_shared_among_workers(monkeypatch, workers_, cores, omp, expected):
    monkeypatch.setattr(pools, "cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    settings = TINY.model_copy(update={"workers": workers_})
    size = pools.local_workers(settings)
    assert (size, pools.threads_each(size)) == expected
