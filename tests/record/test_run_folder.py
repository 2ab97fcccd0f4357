"""Where text is written: a file whole or not at all, and no link or device is replaced by one."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from mistral_eval.errors import OutputError
from mistral_eval.record.fastchat import write_lines as write_answers
from mistral_eval.record.run_folder import write_json, write_lines


@pytest.fixture
def pipe(tmp_path):
    """A named pipe and the descriptor of its reader; nobody needs to be root to make one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: write_lines(path, ["one", "two"]), b"one\ntwo\n"),
        (lambda path: write_json(path, [1]), b"[\n  1\n]\n"),
        (lambda path: write_answers(path, []), b""),
    ],
    ids=["lines", "json", "fastchat"],
)
def test_what_is_no_regular_file_is_written_to_and_stays(pipe, tmp_path, write, expected):
    path, reader = pipe
    write(path)

    assert os.read(reader, 100) == expected
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_line_writes_to_a_named_pipe(cli, pipe):
    """As root, /dev/null would be gone otherwise."""
    path, reader = pipe

    assert cli("table", "--format", "md", "-o", path)[0] == 0
    assert b"Mistral 7B" in os.read(reader, 100_000)
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("redirection", [">>", ">"])
def test_what_the_shell_redirects_stays_its_file(tmp_path, place, redirection):
    """What was there, and what comes later, is not lost."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("before\n")
    link.symlink_to("/dev/stdout")
    place = link if place == "link" else place
    code = (
        "from pathlib import Path; from mistral_eval.record.run_folder import write_lines; "
        f"write_lines(Path({str(place)!r}), ['text'])"
    )
    command = 'echo first; "$@"; echo last'
    subprocess.run(
        ["sh", "-c", f"{{ {command}; }} {redirection} {file}", "sh", sys.executable, "-c", code],
        check=True,
    )
    before = ["before"] if redirection == ">>" else []

    assert file.read_text().split() == [*before, "first", "text", "last"]
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "file", tmp_path / "link"
    file.write_text("before")
    link.symlink_to(file)
    write_lines(link, ["after"])

    assert link.is_symlink()
    assert file.read_text() == "after\n"
    assert list((tmp_path / "real").iterdir()) == [file]


def test_a_link_to_nothing_makes_its_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_lines(tmp_path / "link", ["text"])

    assert (tmp_path / "file").read_text() == "text\n"


def _folder(folder):
    (folder / "path").mkdir()


@pytest.mark.parametrize("make", [_folder, lambda _folder: None], ids=["folder", "no parent"])
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, make):
    make(tmp_path)
    path = tmp_path / "path" if (tmp_path / "path").exists() else tmp_path / "none" / "path"
    before = sorted(tmp_path.rglob("*"))
    for write in (write_lines, write_answers):
        with pytest.raises(OutputError, match=r"path could not be written \(.*Name a file"):
            write(path, [])

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Make room or check the disk, then run the same command again."),
        (errno.EIO, "Make room or check the disk"),
        (errno.EROFS, "Make the run's folder writable and run"),
        (errno.EACCES, "Make the run's folder writable and run"),
    ],
)
def test_the_advice_is_for_what_went_wrong(number, advice, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "replies").mkdir()
    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(OutputError) as raised:
        write_lines(tmp_path / "run.json", [])

    said = f"({os.strerror(number)}). The replies are safe in {tmp_path}/replies. {advice}"
    assert said in str(raised.value)


@pytest.mark.parametrize("write", [write_lines, write_answers])
def test_lines_that_fail_half_way_leave_the_earlier_file(tmp_path, write):
    def lines():
        yield from ()
        raise KeyboardInterrupt

    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write(file, lines())

    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
