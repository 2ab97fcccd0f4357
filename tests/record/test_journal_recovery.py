"""A damaged journal: every reply that can be read goes on, the others are counted as lost."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest

from mistral_eval.record.journal import Journal, request_key
from mistral_eval.record.journal_pages import PAGE, checksum, readable_rows

LONG = "a reply of many tokens " * 400  # overflows to pages of its own


def reply(number: int) -> dict:
    """Short ones as scores are, and now and then one that fills pages."""
    if number % 50 == 7:
        return {"text": LONG + str(number), "ids": list(range(number))}
    return {"logprob": -number / 7, "is_greedy": False}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A closed journal of 600 replies, some longer than a page."""
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    with Journal(path) as journal:
        for number in range(600):
            journal.put(request_key("m", number), reply(number))
    return path


@pytest.fixture
def copy(whole, tmp_path):
    """The journal and its lock file in the test's own folder."""
    for file in whole.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / whole.name


def known(journal: Journal) -> dict[int, dict]:
    keys = {request_key("m", number): number for number in range(600)}
    return {keys[key]: value for key, value in journal.lookup(list(keys)).items()}


def test_the_page_parser_reads_what_sqlite_reads(whole):
    with closing(sqlite3.connect(whole)) as db:
        expected = {
            (key, text.encode()) for key, text in db.execute("SELECT key, reply FROM replies")
        }
    assert len(expected) == 600
    assert set(readable_rows(whole)) == expected


def test_a_journal_cut_at_every_page_gives_back_what_its_pages_hold(copy):
    """Whatever is left is right, nothing is lost that has its pages, and both add up to 600."""
    content, note = copy.read_bytes(), copy.with_suffix(".lock").read_bytes()
    counts = []
    for end in range(0, len(content), PAGE):
        for file in copy.parent.iterdir():
            file.unlink()
        copy.write_bytes(content[:end])
        copy.with_suffix(".lock").write_bytes(note)
        readable = dict(readable_rows(copy))
        with Journal(copy) as journal:
            found = known(journal)
            said = journal.recovered
        assert all(value == reply(number) for number, value in found.items())
        assert len(found) == len(readable)
        assert f"{len(found)} of its replies were recovered" in said
        assert f"{600 - len(found)} are lost" in said
        assert copy.with_suffix(".damaged-1").read_bytes() == content[:end]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] >= 550


@pytest.mark.parametrize("seed", range(12))
def test_a_spoilt_page_costs_its_own_replies_only(copy, seed):
    lot = random.Random(seed)
    content = bytearray(copy.read_bytes())
    page = lot.randrange(len(content) // PAGE)
    content[page * PAGE : (page + 1) * PAGE] = lot.randbytes(PAGE)
    copy.write_bytes(content)
    with Journal(copy) as journal:
        found = known(journal)
        said = journal.recovered
    assert all(value == reply(number) for number, value in found.items())
    assert len(found) >= 600 - 60  # a page holds about 50 scores, or breaks one long reply
    assert said is None or f"{600 - len(found)} are lost" in said
    assert (said is None) == (len(found) == 600)
    with Journal(copy) as journal:
        assert journal.recovered is None
        assert known(journal) == found


def test_one_flipped_bit_in_a_reply_is_never_read_as_a_reply(copy):
    content = copy.read_bytes()
    place = content.index(b'{"logprob":-') + len(b'{"logprob":-') + 1
    copy.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with Journal(copy) as journal:
        assert "599 of its replies were recovered, 1 are lost" in journal.recovered
        assert all(value == reply(number) for number, value in known(journal).items())


def test_what_is_lost_can_be_put_again_and_the_next_damaged_file_is_kept_beside(copy):
    for number in (1, 2):
        content = copy.read_bytes()
        copy.write_bytes(content[: PAGE * 9])
        with Journal(copy) as journal:
            missing = set(range(600)) - set(known(journal))
            assert missing
            for lost in missing:
                journal.put(request_key("m", lost), reply(lost))
        assert copy.with_suffix(f".damaged-{number}").is_file()
    with Journal(copy) as journal:
        assert known(journal) == {number: reply(number) for number in range(600)}


def test_a_killed_runs_write_ahead_log_is_recovered_too(tmp_path):
    """The file itself holds nothing yet: all replies are in the log, and both lack their heads."""
    path = tmp_path / "journal.sqlite"
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from mistral_eval.record.journal import Journal, request_key
        journal = Journal(Path({str(path)!r}))
        for number in range(600):
            journal.put(request_key("m", number), {{"logprob": -number / 7, "is_greedy": False}})
        journal.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    log = path.with_name("journal.sqlite-wal")
    assert log.stat().st_size > 600 * 40
    for file in (path, log):
        file.write_bytes(os.urandom(32) + file.read_bytes()[32:])
    with Journal(path) as journal:
        assert len(known(journal)) == 600
        assert journal.recovered


def test_checksums_tell_keys_apart():
    assert checksum(b"ab", b"c") != checksum(b"ba", b"c")


FILL = """
import json, resource, sys
from pathlib import Path
from mistral_eval.errors import JournalError
from mistral_eval.record.journal import Journal, request_key
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
flushed = 0
try:
    with Journal(Path(sys.argv[1])) as journal:
        for number in range(100000):
            journal.put(request_key("m", number), {"logprob": -number / 7, "is_greedy": False})
            flushed = journal.written
except JournalError as error:
    print(json.dumps([flushed, str(error)]))
"""


def test_a_file_that_may_not_grow_keeps_every_reply_that_was_written(tmp_path):
    path = tmp_path / "journal.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path), "1500000"],
        check=True,
        capture_output=True,
        text=True,
    )
    _assert_kept(path, done.stdout)


def test_a_full_disk_keeps_every_reply_that_was_written(tmp_path):
    """A tmpfs of three megabytes in a mount namespace of its own."""
    keep = tmp_path / "keep"
    keep.mkdir()
    script = (
        f"mount -t tmpfs -o size=3m none {tmp_path}/disk && "
        f"{sys.executable} -c '{FILL}' {tmp_path}/disk/journal.sqlite 0 && "
        f"cp {tmp_path}/disk/* {keep}"
    )
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], check=False, capture_output=True, text=True
    )
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    _assert_kept(keep / "journal.sqlite", done.stdout)


def _assert_kept(path, printed: str) -> None:
    flushed, sentence = json.loads(printed)
    assert flushed > 0
    assert "Replies written before are still in that file" in sentence
    with Journal(path) as journal:
        assert journal.recovered is None
        assert journal.count() >= flushed  # the batch that did not fit may be in the log
