"""The display: rows on a terminal, lines in a log file, nothing when quiet; never on stdout."""

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
from mistral_eval.console import Talk, line, picture
from mistral_eval.progress import Snapshot, Standing
from mistral_eval.stats import Interval

RUN = ("run", "-t", "winogrande,nq", "--engine", "random", "--data", "sample", "--limit", "4")
COLOUR = re.compile(r"\x1b\[([0-9;]*;)?(3[0-8]|4[0-8]|9[0-7])[;m]")
NOW = Snapshot(
    "Generating replies",
    (
        Standing("NQ", 1200, 3610, 1100, Interval(28.8, 26.21, 31.55)),
        Standing("HumanEval", 0, 164, 0, None),
    ),
    75.4,
    "tokens",
    1234.5,
    3700.0,
)


def drawn(width: int, now: Snapshot = NOW) -> str:
    """The picture as text, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(
        picture(now, width)
    )
    return out.getvalue()


def terminal(monkeypatch, **settings) -> io.StringIO:
    """Stderr as a terminal of this width, for `Talk`; gives what it was sent."""
    out = io.StringIO()

    def make(**_) -> Console:
        return Console(file=out, force_terminal=True, width=90, **settings)

    monkeypatch.setattr(console, "Console", make)
    monkeypatch.setenv("TERM", "xterm")
    return out


def test_the_picture_has_a_row_for_each_benchmark_and_a_foot():
    first, second, foot = drawn(100).splitlines()
    assert re.fullmatch(r"NQ +━+╸? +1,200/3,610  28\.8 \[26\.2, 31\.6\] of 1,100 *", first)
    assert re.fullmatch(r"HumanEval +0/164 *", second)
    assert foot.rstrip() == ("Generating replies: 1,234 tokens/s, 0:01:15 so far, 1:01:40 left")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits_the_terminal(width):
    lines = drawn(width).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "1,200/3,610" in lines[0] or width < 60


def test_what_nobody_knows_is_left_out():
    unknown = Snapshot("Scoring choices", NOW.standings[1:], 2.0, "tokens", None, None)
    assert drawn(80, unknown).splitlines()[-1].rstrip() == "Scoring choices: 0:00:02 so far"
    assert line(unknown) == "Scoring choices: HumanEval 0/164; 0:00:02 so far"


def test_a_log_file_gets_the_same_on_a_line():
    assert line(NOW) == (
        "Generating replies: NQ 1,200/3,610 28.8 [26.2, 31.6] of 1,100; HumanEval 0/164; "
        "1,234 tokens/s, 0:01:15 so far, 1:01:40 left"
    )


def test_a_terminal_is_drawn_on_again_and_left_clean(monkeypatch):
    out = terminal(monkeypatch, color_system=None)
    talk, seen = Talk(), threading.Event()
    looks = []

    def look() -> Snapshot:
        looks.append(1)
        if len(looks) > 3:
            seen.set()
        return NOW

    with talk.show(look):
        assert seen.wait(20), "the display looks by itself while the block works"
        talk.say("meanwhile")
    assert "meanwhile" in out.getvalue()
    assert "Generating replies: 1,234 tokens/s" in out.getvalue()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")  # the last picture is wiped


def test_a_log_file_hears_at_once_and_then_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.01)
    seen = threading.Event()
    looks = []

    def look() -> Snapshot:
        looks.append(1)
        if len(looks) > 3:
            seen.set()
        return NOW

    before = set(threading.enumerate())
    with Talk().show(look):
        assert seen.wait(20)
    after = set(threading.enumerate())
    out, err = capsys.readouterr()
    assert out == ""
    assert after <= before  # others' threads may have ended meanwhile
    assert set(err.splitlines()) == {line(NOW)}
    assert len(err.splitlines()) >= 3


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_prints_nothing_and_does_not_even_look(monkeypatch, capsys, is_terminal):
    out = terminal(monkeypatch) if is_terminal else io.StringIO()
    talk = Talk(quiet=True)
    with talk.show(lambda: pytest.fail("looked")):
        talk.say("nothing")
    assert (out.getvalue(), *capsys.readouterr()) == ("", "", "")


def test_no_color_leaves_no_colour_in_the_display(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    with_colour = terminal(monkeypatch, color_system="standard")
    with Talk().show(lambda: NOW):
        pass
    assert COLOUR.search(with_colour.getvalue())
    monkeypatch.setenv("NO_COLOR", "1")
    without = terminal(monkeypatch)
    with Talk().show(lambda: NOW):
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
    out, _ = process.communicate(timeout=120)
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
