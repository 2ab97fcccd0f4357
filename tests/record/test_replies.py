"""The replies log: a reply that was put is found again, under its own key only."""

import fcntl
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.engines.keys import request_key
from mistral_eval.errors import RepliesError
from mistral_eval.record import replies
from mistral_eval.record.replies import (
    BATCH_REPLIES,
    BATCH_SECONDS,
    OtherRuns,
    Replies,
    RepliesLog,
    check_replies,
)

REPLY = {"logprob": -1.2345678901234567, "is_greedy": False}
COUNT = 24
KEYS = [request_key("m", number) for number in range(COUNT)]


def reply(number: int) -> dict:
    """A score, or for each fifth number a text with characters that JSON escapes."""
    if number % 5 == 2:
        return {"text": f'{{"key":"\n\r\u2028é\ud800\\"}}\x00 {number}', "ids": [number] * 9}
    return {"logprob": -number / 7, "is_greedy": number % 2 == 0}


def write(folder: Path, numbers: Iterator[int] | range | list[int]) -> Path:
    """Write replies as one process does; the file it made."""
    before = set(folder.glob("replies/*"))
    with RepliesLog(folder) as log:
        for number in numbers:
            log.put(KEYS[number], reply(number))
    (file,) = set(folder.glob("replies/*")) - before
    return file


def known(folder: Path) -> dict[int, dict]:
    """Every reply that is read, by its request's number."""
    found = Replies(folder).lookup(KEYS)
    return {KEYS.index(key): value for key, value in found.items()}


def everything(numbers: Iterator[int] | range) -> dict[int, dict]:
    return {number: reply(number) for number in numbers}


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for each of hypothesis's examples, which share `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def lines_of(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of each line, its newline included."""
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    return list(zip([0, *ends], ends, strict=False))


# What is kept


def test_what_was_put_is_found_by_the_next_process(tmp_path):
    with RepliesLog(tmp_path) as log:
        log.put(KEYS[0], REPLY)
    with RepliesLog(tmp_path) as log:
        assert log.lookup([KEYS[0], KEYS[1], KEYS[0]]) == {KEYS[0]: REPLY}
        assert (log.count(), log.skipped, log.notice) == (1, 0, None)


def test_a_file_that_has_reached_its_size_is_closed_and_another_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(replies, "SEGMENT_BYTES", 500)
    with RepliesLog(tmp_path) as log:
        for number, key in enumerate(KEYS):
            log.put(key, reply(number))
            log.flush()
            assert log.lookup([key]) == {key: reply(number)}
        found = log.lookup(KEYS)
        assert log.count() == COUNT
    assert found == {key: reply(number) for number, key in enumerate(KEYS)}
    assert known(tmp_path) == everything(range(COUNT))
    *closed, last = sorted((tmp_path / "replies").iterdir())
    assert len(closed) > 3
    assert all(500 <= file.stat().st_size < 500 + 300 for file in closed)
    assert last.stat().st_size < 500 + 300
    assert not open_files(tmp_path)


def open_files(folder: Path) -> list[Path]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return [place for link in links if (place := link.readlink()).is_relative_to(folder)]


def test_a_reply_that_waits_for_its_batch_is_durable_after_flush(tmp_path):
    with RepliesLog(tmp_path) as log:
        log.put(KEYS[0], REPLY)
        assert log.count() == 0
        log.flush()
        assert log.count() == Replies(tmp_path).count() == 1
        assert log.lookup(KEYS) == {KEYS[0]: REPLY}


def test_an_empty_log_is_true_and_leaves_no_file(tmp_path):
    with RepliesLog(tmp_path) as log:
        assert log
    assert [file.name for file in tmp_path.rglob("*")] == ["replies.lock"]


def test_a_line_is_json_with_key_checksum_and_reply(tmp_path):
    file = write(tmp_path, range(COUNT))
    lines = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    assert [list(line) for line in lines] == [["key", "crc", "reply"]] * COUNT
    assert [bytes.fromhex(line["key"]) for line in lines] == KEYS
    assert [line["reply"] for line in lines] == [reply(number) for number in range(COUNT)]


def test_numbers_that_json_lacks_survive(tmp_path):
    with RepliesLog(tmp_path) as log:
        log.put(KEYS[0], {"logprob": float("-inf"), "is_greedy": False})
    assert Replies(tmp_path).lookup(KEYS) == {
        KEYS[0]: {"logprob": float("-inf"), "is_greedy": False}
    }


def test_a_key_of_another_length_is_refused_before_it_is_written(tmp_path):
    with RepliesLog(tmp_path) as log, pytest.raises(ValueError, match="32 bytes, found 1"):
        log.put(b"k", REPLY)


def test_a_full_batch_is_durable_at_once_and_a_slow_one_after_half_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mistral_eval.record.replies.time.monotonic", lambda: now[0])
    with RepliesLog(tmp_path) as log:
        for number in range(BATCH_REPLIES):
            assert log.count() == 0
            log.put(request_key("m", "score", number), REPLY)
        assert log.count() == BATCH_REPLIES
        now[0] += BATCH_SECONDS
        log.put(KEYS[0], REPLY)
        assert log.count() == BATCH_REPLIES
        now[0] += 0.01
        log.put(KEYS[1], REPLY)
        assert log.count() == BATCH_REPLIES + 2


def test_a_batch_is_synced_to_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, log.count()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with RepliesLog(tmp_path) as log:
        for number in range(3):
            log.put(KEYS[number], REPLY)
        log.flush()
        size = next(tmp_path.glob("replies/*")).stat().st_size
        assert synced[-1] == (size, 0)
        assert log.count() == 3


def test_of_two_replies_to_one_key_the_later_counts_here_and_after(tmp_path):
    with RepliesLog(tmp_path) as log:
        for text in ("first", "second"):
            log.put(KEYS[0], {"text": text})
            log.put(KEYS[1], REPLY)
            log.flush()
        assert log.lookup(KEYS[:1]) == {KEYS[0]: {"text": "second"}}
        assert log.count() == 2
    found = Replies(tmp_path)
    assert (found.lookup(KEYS[:1]), found.count()) == ({KEYS[0]: {"text": "second"}}, 2)


def test_a_batch_that_a_signal_has_written_twice_is_there_once(tmp_path):
    """Ctrl-C right after a write: what is pending is written again, at the same offset."""
    with RepliesLog(tmp_path) as log:
        log.put(KEYS[0], REPLY)
        kept = list(log._pending)
        log.flush()
        log._pending, log._size = kept, 0  # as if the flush had ended after its write
        log.put(KEYS[1], REPLY)
    (file,) = tmp_path.glob("replies/*")
    assert len(file.read_bytes().splitlines()) == 2
    assert Replies(tmp_path).lookup(KEYS) == {KEYS[0]: REPLY, KEYS[1]: REPLY}


# Keys

parts = st.one_of(
    st.text(),
    st.integers(),
    st.lists(st.integers(0, 40000), max_size=5).map(tuple),
    st.lists(st.text(), max_size=3).map(tuple),
    st.floats(allow_nan=False),
)


@given(
    st.lists(
        st.tuples(st.text(), st.text(), parts, parts),
        min_size=2,
        max_size=6,
        unique_by=repr,
    )
)
def test_two_requests_share_a_key_only_when_they_are_equal(requests):
    keys = {request_key(*request) for request in requests}
    assert len(keys) == len(requests)


def test_ids_and_texts_that_look_alike_have_different_keys():
    assert request_key("m", "score", [1, 23]) != request_key("m", "score", [12, 3])
    assert request_key("m", "score", "1") != request_key("m", "score", 1)
    assert request_key("m", "score", "\ud800") != request_key("m", "score", "?")
    assert request_key("m", "score", (1, 2), (3,)) != request_key("m", "score", (1,), (2, 3))
    assert request_key("m", "score", "ab", "c") != request_key("m", "score", "a", "bc")
    assert request_key("m", "score", "1,2") != request_key("m", "score", (1, 2))
    assert request_key("m", "score", (1 << 40,)) != request_key("m", "score", (0, 256))


def test_a_list_and_a_tuple_of_the_same_ids_are_one_request():
    assert request_key("m", "score", [1, 2]) == request_key("m", "score", (1, 2))


# Several writers


def test_each_process_writes_a_file_of_its_own_and_touches_no_other(tmp_path):
    first = write(tmp_path, range(10))
    content = first.read_bytes()
    second = write(tmp_path, range(10, COUNT))
    assert first != second
    assert first.read_bytes() == content
    assert known(tmp_path) == everything(range(COUNT))


def test_a_name_that_is_taken_is_not_written_to(tmp_path, monkeypatch):
    class Noon(replies.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2027, 1, 1, 12, tzinfo=tz)

    monkeypatch.setattr(replies, "datetime", Noon)
    content = write(tmp_path, range(3)).read_bytes()
    log = RepliesLog(tmp_path)
    log.put(KEYS[3], REPLY)
    with pytest.raises(RepliesError, match="File exists"):
        log.flush()
    monkeypatch.undo()
    log.close()
    assert content in {file.read_bytes() for file in tmp_path.glob("replies/*")}
    assert Replies(tmp_path).count() == 4


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, COUNT - 1), min_size=1), min_size=1, max_size=4))
def test_files_of_several_machines_merge_by_lying_in_one_folder(batches):
    """Duplicates within a file and between files are one reply."""
    with new_folder() as folder:
        merged = folder / "merged" / "replies"
        merged.mkdir(parents=True)
        for number, batch in enumerate(batches):
            machine = folder / str(number)
            machine.mkdir()
            shutil.copy(write(machine, batch), merged / f"{number}.jsonl")
        found = Replies(merged.parent)
        numbers = {number for batch in batches for number in batch}
        assert (found.count(), found.notice) == (len(numbers), None)
        assert known(merged.parent) == everything(sorted(numbers))


def test_of_several_files_the_last_by_name_counts(tmp_path):
    (tmp_path / "replies").mkdir()
    for name, text in (("b", "second"), ("a", "first")):
        machine = tmp_path / name
        machine.mkdir()
        with RepliesLog(machine) as log:
            log.put(KEYS[0], {"text": text})
        (file,) = machine.glob("replies/*")
        file.rename(tmp_path / "replies" / f"{name}.jsonl")
    assert Replies(tmp_path).lookup(KEYS) == {KEYS[0]: {"text": "second"}}


def test_a_second_process_is_sent_away_with_a_sentence(tmp_path):
    with RepliesLog(tmp_path), pytest.raises(RepliesError, match="Another process"):
        RepliesLog(tmp_path)


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with RepliesLog(tmp_path) as one, RepliesLog(tmp_path) as two:
        for number in range(10):
            (one, two)[number % 2].put(KEYS[number], reply(number))
    assert len(list(tmp_path.glob("replies/*"))) == 2
    assert known(tmp_path) == everything(range(10))


def test_a_killed_process_leaves_what_it_flushed_and_no_lock(tmp_path):
    """Kill -9 right after a flush: the reply is there, and the next process gets in."""
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from mistral_eval.record.replies import RepliesLog
        log = RepliesLog(Path({str(tmp_path)!r}))
        log.put(b"k" * 32, {{"text": "a"}})
        log.flush()
        log.put(b"l" * 32, {{"text": "b"}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    with RepliesLog(tmp_path) as log:
        assert log.lookup([b"k" * 32, b"l" * 32]) == {b"k" * 32: {"text": "a"}}


# Damage


@settings(max_examples=60)
@given(st.data())
def test_a_file_cut_anywhere_keeps_all_lines_before_the_cut(data):
    with new_folder() as folder:
        file = write(folder, range(COUNT))
        content = file.read_bytes()
        end = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:end])
        whole = sum(stop - 1 <= end for _, stop in lines_of(content))  # a newline may be missing
        rest = end - ([0, *(stop for _, stop in lines_of(content))][whole])
        found = Replies(folder)
        assert known(folder) == everything(range(whole))
        assert found.skipped + len(found.ignored) == (rest > 0)
        with RepliesLog(folder) as log:  # what is lost is put again, in a file of its own
            for number in set(range(COUNT)) - set(known(folder)):
                log.put(KEYS[number], reply(number))
        assert known(folder) == everything(range(COUNT))


@settings(max_examples=150)
@given(st.data())
def test_a_changed_byte_costs_its_own_line_and_is_never_read_as_a_reply(data):
    with new_folder() as folder:
        write(folder, range(COUNT // 2))
        file = write(folder, range(COUNT // 2, COUNT))
        content = bytearray(file.read_bytes())
        lines = lines_of(content)
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        hit = next(n for n, (start, stop) in enumerate(lines) if start <= place < stop)
        kept = everything(number for number in range(COUNT) if number != COUNT // 2 + hit)
        found = known(folder)
        assert found == kept
        assert Replies(folder).skipped in (1, 2)  # two where the byte has become a newline


@pytest.mark.parametrize("seed", range(6))
def test_noise_over_many_lines_costs_those_lines_only(tmp_path, seed):
    lot = random.Random(seed)
    file = write(tmp_path, range(COUNT))
    content = file.read_bytes()
    start = lot.randrange(len(content) - 300)
    file.write_bytes(content[:start] + lot.randbytes(300) + content[start + 300 :])
    lines = enumerate(lines_of(content))
    hit = {n for n, (first, end) in lines if first < start + 300 and end > start}
    assert known(tmp_path) == everything(sorted(set(range(COUNT)) - hit))


def test_a_line_appended_to_a_torn_one_is_read(tmp_path):
    """It happens where somebody has joined files, not with one writer per file."""
    file = write(tmp_path, range(3))
    content = file.read_bytes()
    (_, end), (start, _), *_ = lines_of(content)
    file.write_bytes(content[: end - 9] + content[start:])
    assert known(tmp_path) == everything(range(1, 3))
    assert Replies(tmp_path).skipped == 1


def test_the_notice_counts_what_is_damaged(tmp_path):
    file = write(tmp_path, range(COUNT))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line.replace(b"logprob", b"logprop") for line in lines))
    scores = sum(b"logprob" in line for line in lines)
    with RepliesLog(tmp_path) as log:
        assert log.skipped == scores
        assert log.notice == (f"{scores} damaged lines were skipped in {tmp_path / 'replies'}.")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples_gsm8k.jsonl", b'{"doc_id": 0}\n' * 50),
        ("noise.jsonl", bytes(range(256)) * 99),
        ("zeros.jsonl", b"\0" * 9999),
        ("notes.txt", b"hello"),
    ],
)
def test_a_foreign_file_is_ignored_with_a_sentence_and_stays_as_it_is(tmp_path, name, content):
    write(tmp_path, range(COUNT))
    foreign = tmp_path / "replies" / name
    foreign.write_bytes(content)
    with RepliesLog(tmp_path) as log:
        assert (log.count(), log.skipped) == (COUNT, 0)
        assert log.notice == (
            f"1 file holds no readable reply in {tmp_path / 'replies'} ({name}); ignored."
        )
    assert foreign.read_bytes() == content


def test_a_folder_among_the_files_and_hidden_files_are_no_obstacle(tmp_path):
    write(tmp_path, range(COUNT))
    (tmp_path / "replies" / "x.jsonl").mkdir()
    (tmp_path / "replies" / ".partial.jsonl.tmp").write_bytes(b"half")
    found = Replies(tmp_path)
    assert (found.count(), found.ignored) == (COUNT, ["x.jsonl"])


def test_a_line_that_is_damaged_after_opening_is_not_read(tmp_path):
    file = write(tmp_path, range(3))
    with RepliesLog(tmp_path) as log:
        file.write_bytes(file.read_bytes().replace(b"logprob", b"logprop", 1))
        assert set(log.lookup(KEYS)) == set(KEYS[1:3])
        assert (log.skipped, log.count()) == (1, 2)


def test_a_file_that_goes_away_is_told_in_a_sentence(tmp_path):
    file = write(tmp_path, range(3))
    found = Replies(tmp_path)
    file.unlink()
    with pytest.raises(RepliesError, match="cannot be read or written"):
        found.lookup(KEYS)


# Version 0.1.0


def old_journal(folder: Path) -> Path:
    """A journal as 0.1.0 made it."""
    file = folder / "journal.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE TABLE replies (key BLOB NOT NULL, reply TEXT NOT NULL, checksum INTEGER NOT "
            "NULL); PRAGMA application_id=0x4D45564A; PRAGMA user_version=3;"
        )
    return file


@pytest.mark.parametrize("opener", [RepliesLog, check_replies])
def test_a_run_of_version_0_1_0_is_told_and_left_as_it_is(tmp_path, opener):
    before = old_journal(tmp_path).read_bytes()
    with pytest.raises(RepliesError, match=r"holds journal\.sqlite, .* 0\.1\.0.*--fresh"):
        opener(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "journal.sqlite": before
    }


def test_a_neighbour_of_version_0_1_0_is_said_once_and_not_read(tmp_path):
    mine, old, new = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder in (mine, old, new):
        folder.mkdir()
    old_journal(old)
    write(new, range(3))
    said: list[str] = []
    others = OtherRuns(mine, said.append)
    for _ in range(2):
        assert set(others.lookup(KEYS)) == set(KEYS[:3])
    (line,) = said
    assert f"The replies of {old} are not reused" in line


# A disk that is full

FILL = """
import json, resource, sys
from pathlib import Path
from mistral_eval.errors import RepliesError
from mistral_eval.engines.keys import request_key
from mistral_eval.record.replies import RepliesLog
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
flushed = 0
try:
    with RepliesLog(Path(sys.argv[1])) as log:
        for number in range(100000):
            log.put(request_key("m", number), {"logprob": -number / 7, "is_greedy": False})
            flushed = log.count()
except RepliesError as error:
    print(json.dumps([flushed, str(error)]))
"""


def test_a_file_that_may_not_grow_keeps_every_reply_that_was_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path), "1500000"],
        check=True,
        capture_output=True,
        text=True,
    )
    _assert_kept(tmp_path, done.stdout)


def test_a_full_disk_keeps_every_reply_that_was_written(tmp_path):
    """A tmpfs of three megabytes in a mount namespace of its own."""
    keep = tmp_path / "keep"
    keep.mkdir()
    script = (
        f"mount -t tmpfs -o size=3m none {tmp_path}/disk && "
        f"{sys.executable} -c '{FILL}' {tmp_path}/disk 0 && "
        f"cp -r {tmp_path}/disk/* {keep}"
    )
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], check=False, capture_output=True, text=True
    )
    if done.returncode and (done.stderr.startswith("unshare:") or "mount" in done.stderr):
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    _assert_kept(keep, done.stdout)


def _assert_kept(folder: Path, printed: str) -> None:
    flushed, sentence = json.loads(printed)
    assert flushed > 0
    assert "Replies written before are safe in it" in sentence
    with RepliesLog(folder) as log:
        assert log.notice is None
        assert log.count() > flushed  # the batch that did not fit is kept up to its last whole line
