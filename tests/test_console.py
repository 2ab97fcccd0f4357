"""The display: bars on a terminal, lines in a log file, nothing when quiet; never on stdout."""

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from mistral_eval import console
from mistral_eval.console import Bars, Row, Talk, counted, line

RUN = ("run", "-t", "winogrande,nq", "--engine", "random", "--data", "sample", "--limit", "4")
COLOUR = re.compile(r"\x1b\[([0-9;]*;)?(3[0-8]|4[0-8]|9[0-7])[;m]")


class Phase:
    """Work as a display sees it; `seen` is set once it was looked at four times."""

    label = "Judging"

    def __init__(self) -> None:
        self.rows = [Row("NQ", 3610, 1200, "28.8 [26.2, 31.6]"), Row("HumanEval", 164)]
        self.looks = 0
        self.seen = threading.Event()

    def pace(self) -> str:
        self.looks += 1
        if self.looks > 3:
            self.seen.set()
        return "1,234 tokens/s, 0:01:15 so far, about 1:01:40 left"


def drawn(width: int) -> str:
    """The bars as text, without colours."""
    out = io.StringIO()
    screen = Console(file=out, width=width, force_terminal=True, color_system=None)
    screen.print(Bars(Phase(), screen).get_renderable())
    return out.getvalue()


def terminal(monkeypatch, **settings) -> io.StringIO:
    """Stderr as a terminal of this width, for `Talk`; gives what it was sent."""
    out = io.StringIO()

    def make(**_) -> Console:
        return Console(file=out, force_terminal=True, width=90, **settings)

    monkeypatch.setattr(console, "Console", make)
    monkeypatch.setenv("TERM", "xterm")
    return out


def test_the_bars_have_a_row_for_each_benchmark_and_a_foot():
    first, second, foot = drawn(100).splitlines()
    assert re.fullmatch(r"NQ +━+╸? +1,200/3,610 28\.8 \[26\.2, 31\.6\] *", first)
    assert re.fullmatch(r"HumanEval +0/164 *", second)
    assert foot.rstrip() == "Judging: 1,234 tokens/s, 0:01:15 so far, about 1:01:40 left"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_bars_fit_the_terminal(width):
    lines = drawn(width).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "1,200/3,610" in lines[0]


def test_a_row_follows_its_counts():
    phase, out = Phase(), io.StringIO()
    screen = Console(file=out, width=80, force_terminal=True, color_system=None)
    bars = Bars(phase, screen)
    phase.rows[1].done, phase.rows[1].note = 164, "12.2 [8.0, 18.1]"
    screen.print(bars.get_renderable())
    assert "  164/164 12.2 [8.0, 18.1]" in out.getvalue()


def test_a_log_file_gets_the_same_on_a_line():
    assert line(Phase()) == (
        "Judging: NQ 1,200/3,610 28.8 [26.2, 31.6]; HumanEval 0/164; "
        "1,234 tokens/s, 0:01:15 so far, about 1:01:40 left"
    )


def test_a_terminal_is_drawn_on_again_and_left_clean(monkeypatch):
    out = terminal(monkeypatch, color_system=None)
    talk, phase = Talk(), Phase()
    with talk.show(phase):
        assert phase.seen.wait(60), "the display looks by itself while the block works"
        talk.say("meanwhile")
    assert "meanwhile" in out.getvalue()
    assert "Judging: 1,234 tokens/s" in out.getvalue()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")  # the last picture is wiped


def test_a_log_file_gets_a_line_at_the_start_and_at_the_end(capsys):
    phase = Phase()
    with Talk().show(phase):
        phase.rows[0].done = 3610
    out, err = capsys.readouterr()
    assert out == ""
    assert [one.partition(" 28.8")[0] for one in err.splitlines()] == [
        "Judging: NQ 1,200/3,610",
        "Judging: NQ 3,610/3,610",
    ]


def test_a_log_file_of_long_work_gets_lines_in_between(monkeypatch, capsys):
    monkeypatch.setattr(console, "LINE_SECONDS", 0.01)
    phase = Phase()
    before = set(threading.enumerate())
    with Talk().show(phase):
        assert phase.seen.wait(60)
    assert set(threading.enumerate()) <= before  # others' threads may have ended meanwhile
    out, err = capsys.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {line(phase)}
    assert len(err.splitlines()) >= 4


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_prints_nothing_and_does_not_even_look(monkeypatch, capsys, is_terminal):
    out = terminal(monkeypatch) if is_terminal else io.StringIO()
    talk, phase = Talk(quiet=True), Phase()
    with talk.show(phase):
        talk.say("nothing")
    assert phase.looks == 0
    assert (out.getvalue(), *capsys.readouterr()) == ("", "", "")


def test_no_color_leaves_no_colour_in_the_display(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    with_colour = terminal(monkeypatch, color_system="standard")
    with Talk().show(Phase()):
        pass
    assert COLOUR.search(with_colour.getvalue())
    monkeypatch.setenv("NO_COLOR", "1")
    without = terminal(monkeypatch)
    with Talk().show(Phase()):
        pass
    assert "1,200/3,610" in without.getvalue()
    assert not COLOUR.search(without.getvalue())


def on_a_terminal(*arguments: object, **env: str) -> tuple[str, str]:
    """A whole run with a terminal as stderr and a pipe as stdout: (stdout, what the screen got)."""
    ours, theirs = pty.openpty()
    program = "from mistral_eval.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **env},
    )
    os.close(theirs)
    screen = []
    while True:
        try:
            if not (part := os.read(ours, 65536)):
                break
        except OSError:  # Linux's way to say that the other end is closed
            break
        screen.append(part)
    os.close(ours)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, b"".join(screen)
    return out.decode(), b"".join(screen).decode()


def test_a_run_with_a_terminal_leaves_stdout_to_the_table(tmp_path):
    piped = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mistral_eval.cli.app import main; main()",
            *RUN,
            "-o",
            tmp_path / "a",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    out, screen = on_a_terminal(*RUN, "-o", tmp_path / "b")
    assert out == piped.stdout
    assert "Scoring choices" in screen
    assert "4/4" in screen
    assert "Judging" in piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr


def test_a_quiet_run_says_nothing_on_a_terminal(tmp_path):
    _, screen = on_a_terminal(*RUN, "-o", tmp_path, "--quiet")
    assert screen == ""


def test_a_run_with_no_color_sends_no_colour(tmp_path):
    _, screen = on_a_terminal(*RUN, "-o", tmp_path, NO_COLOR="1")
    assert "Scoring choices" in screen
    assert not COLOUR.search(screen)


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "question", "0 questions"),
        (1, "question", "1 question"),
        (2, "reply", "2 replies"),
        (1, "reply", "1 reply"),
        (14042, "request", "14,042 requests"),
    ],
)
def test_a_count_agrees_with_its_noun(number, noun, words):
    assert counted(number, noun) == words
