"""Signals while a run answers: the pass in flight is finished and kept; a second one stops at once.

The runs are this process's own, and the signals come from inside of a forward pass.
"""

import io
import json
import os
import re
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from mistral_eval import console
from mistral_eval.console import Talk
from mistral_eval.engines.native import NativeEngine
from mistral_eval.errors import EndedEarlyError, StoppedError
from mistral_eval.model.transformer import Transformer
from mistral_eval.run import judge_run
from mistral_eval.run import run as running
from mistral_eval.run.run import run_suite
from mistral_eval.run.stopping import NOTED, Stopper, stoppable
from mistral_eval.settings import RunSettings

KINDS = [signal.SIGINT, signal.SIGTERM]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Passes:
    """Forward passes of a run, begun and done, and after how many of them each reply came.

    In the pass with the number `at` the process is sent `signals`, one after the other, and `then`
    is called before the pass goes on.
    """

    at: int = 0
    signals: tuple[int, ...] = ()
    begun: int = 0
    done: int = 0
    replies: list[int] = field(default_factory=list)
    then: object = None

    def by(self, passes: int) -> int:
        """How many replies there were after so many passes."""
        return sum(one <= passes for one in self.replies)


@pytest.fixture
def passes(monkeypatch) -> Passes:
    found = Passes()
    hidden, answer = Transformer.hidden, NativeEngine.answer

    def counted(self, *arguments):
        found.begun += 1
        if found.begun == found.at:
            for number in found.signals:
                os.kill(os.getpid(), number)
            if found.then:
                found.then()
        states = hidden(self, *arguments)
        found.done += 1
        return states

    def noted(self, *arguments):
        for reply in answer(self, *arguments):
            found.replies.append(found.done)
            yield reply

    monkeypatch.setattr(Transformer, "hidden", counted)
    monkeypatch.setattr(NativeEngine, "answer", noted)
    return found


def settings(output: Path, task: str = "winogrande") -> RunSettings:
    """A run of a hundred passes, many of which bring a reply."""
    return RunSettings(
        tasks=(task,), model="tiny", data="sample", limit=4, batch_tokens=32, output_path=output
    )


def survey(passes: Passes, chosen: RunSettings) -> Passes:
    """What an undisturbed run does; `at` is a pass in its midst that brings replies."""
    run_suite(chosen, Talk(quiet=True))
    bringing = sorted(set(passes.replies))
    seen = Passes(bringing[len(bringing) // 2], (), passes.begun, passes.done, passes.replies)
    assert 0 < seen.by(seen.at - 1) < seen.by(seen.at) < len(seen.replies)
    passes.begun = passes.done = 0
    passes.replies = []
    return seen


def durable(output: Path) -> int:
    (file,) = output.rglob("replies/*.jsonl")
    return len(file.read_bytes().splitlines())


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_stop_before_the_first_reply_promises_none(tmp_path):
    with pytest.raises(StoppedError) as told, stoppable(tmp_path, print):
        raise KeyboardInterrupt
    assert str(told.value) == (
        "Stopped by SIGINT. No reply was kept yet; the same command starts again."
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["winogrande", "gsm8k"])
def test_the_pass_in_flight_is_finished_and_its_replies_are_durable(passes, tmp_path, task, kind):
    undisturbed = settings(tmp_path / "undisturbed", task)
    stopped = settings(tmp_path / "stopped", task)
    seen = survey(passes, undisturbed)
    passes.at, passes.signals = seen.at, (kind,)
    with pytest.raises(StoppedError) as told:
        run_suite(stopped, Talk(quiet=True))
    known = seen.by(seen.at)
    (replies,) = stopped.output_path.rglob("replies")
    assert (passes.begun, passes.done) == (seen.at, seen.at)
    assert durable(stopped.output_path) == known
    assert told.value.exit_code == 128 + kind
    assert str(told.value) == (
        f"Stopped by {kind.name}. {known} replies are in {replies}; "
        "the same command resumes from there."
    )
    passes.at = 0
    run, whole = (read(run_suite(one, Talk(quiet=True))) for one in (stopped, undisturbed))
    assert run["counts"]["from_log"] == known
    assert run["counts"]["computed"] == len(seen.replies) - known
    assert run["scores"] == whole["scores"]


@pytest.mark.parametrize("kinds", [KINDS[:1] * 2, KINDS[1:] * 2, KINDS, KINDS[::-1]])
def test_a_second_signal_stops_at_once(passes, tmp_path, kinds):
    seen = survey(passes, settings(tmp_path / "undisturbed"))
    passes.at, passes.signals = seen.at, tuple(kinds)
    with pytest.raises(StoppedError, match=f"^Stopped by {kinds[1].name}") as told:
        run_suite(settings(tmp_path / "stopped"), Talk(quiet=True))
    assert told.value.exit_code == 128 + kinds[1]
    assert (passes.begun, passes.done) == (seen.at, seen.at - 1)
    assert durable(tmp_path / "stopped") == seen.by(seen.at - 1)


def test_a_signal_in_the_last_pass_stops_before_the_judging(passes, tmp_path, monkeypatch):
    seen = survey(passes, settings(tmp_path / "undisturbed"))
    passes.at, passes.signals = seen.done, KINDS[:1]
    monkeypatch.setattr(judge_run, "judge_benchmark", pytest.fail)
    with pytest.raises(StoppedError):
        run_suite(settings(tmp_path / "stopped"), Talk(quiet=True))
    assert durable(tmp_path / "stopped") == len(seen.replies)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", ["load_benchmarks", "judge_benchmark", "write_run"])
def test_outside_of_answering_the_first_signal_stops_at_once(tmp_path, monkeypatch, phase, kind):
    def signalled(*_) -> None:
        os.kill(os.getpid(), kind)
        pytest.fail("it went on")

    owner = judge_run if phase == "judge_benchmark" else running
    monkeypatch.setattr(owner, phase, signalled)
    handlers = [signal.getsignal(number) for number in KINDS]
    with pytest.raises(StoppedError, match=f"^Stopped by {kind.name}"):
        run_suite(settings(tmp_path), Talk(quiet=True))
    assert [signal.getsignal(number) for number in KINDS] == handlers
    assert not list(tmp_path.rglob("run.json"))


def test_it_says_what_it_waits_for_while_it_waits(passes, tmp_path):
    class Hearing(Talk):
        def say(self, text: str) -> None:
            said.append(text)
            if text == NOTED:
                heard.set()

    said: list[str] = []
    heard = threading.Event()
    passes.at, passes.signals = 3, KINDS[:1]
    passes.then = lambda: heard.wait(300)
    before = set(threading.enumerate())
    with pytest.raises(StoppedError):
        run_suite(settings(tmp_path), Hearing())
    assert heard.is_set()
    assert said.count(NOTED) == 1
    assert set(threading.enumerate()) <= before  # others' threads may have ended meanwhile


def test_on_a_terminal_the_line_stands_alone_above_the_display(passes, tmp_path, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        console, "Console", lambda **_: Console(file=out, force_terminal=True, width=90)
    )
    monkeypatch.setenv("TERM", "xterm")
    passes.at, passes.signals = 3, KINDS[:1]
    with pytest.raises(StoppedError):
        run_suite(settings(tmp_path), Talk())
    # A carriage return begins a line anew: what the display had there is erased first.
    lines = [CONTROL.sub("", line).strip() for line in re.split(r"[\r\n]", out.getvalue())]
    assert lines.count(NOTED) == 1
    assert "Scoring choices" in out.getvalue()
    assert out.getvalue().count(NOTED) == 1


def test_a_quiet_run_says_nothing_of_it(passes, tmp_path, capsys):
    passes.at, passes.signals = 3, KINDS[:1]
    with pytest.raises(StoppedError):
        run_suite(settings(tmp_path), Talk(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_an_ignored_signal_stays_ignored():
    """A job in the background of a shell without job control ignores Ctrl-C."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stopper = Stopper(pytest.fail)
        with stopper.deferred():
            os.kill(os.getpid(), signal.SIGINT)
        assert not stopper.is_wanted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_an_engines_own_early_end_is_not_taken_for_a_stop(tmp_path):
    with (
        pytest.raises(EndedEarlyError, match="on its own"),
        stoppable(tmp_path, pytest.fail) as stopper,
        stopper.deferred(),
    ):
        raise EndedEarlyError("on its own")


def test_another_error_while_the_stop_waits_is_the_one_that_is_told(tmp_path):
    def fail() -> None:
        with stoppable(tmp_path, lambda _: None) as stopper, stopper.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopper.is_wanted()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()


def test_in_a_thread_nothing_is_deferred_and_nothing_breaks(tmp_path):
    """Python hears signals in its main thread alone."""
    wanted = []

    def work() -> None:
        with stoppable(tmp_path, pytest.fail) as stopper, stopper.deferred():
            wanted.append(stopper.is_wanted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert wanted == [False]
