"""The journal: what was put is found again, under its own key only, whatever happened between."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.errors import JournalError
from mistral_eval.record.journal import COMMIT_ROWS, COMMIT_SECONDS, Journal, request_key
from mistral_eval.record.journal_file import APPLICATION_ID, read_replies
from mistral_eval.record.journal_pages import checksum

REPLY = {"logprob": -1.2345678901234567, "is_greedy": False}


def test_what_was_put_is_found_by_the_next_process(tmp_path):
    key = request_key("model", "score", [1, 2], [3])
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.put(key, REPLY)
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.lookup([key, b"other"]) == {key: REPLY}
        assert journal.count() == 1


def test_a_reply_that_waits_for_its_batch_is_durable_after_flush(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.put(b"k", REPLY)
        assert journal.count() == 0
        journal.flush()
        assert journal.count() == 1


def test_more_keys_than_one_query_takes_are_all_found(tmp_path):
    keys = [request_key("m", "score", i) for i in range(1234)]
    with Journal(tmp_path / "j.sqlite") as journal:
        for key in keys:
            journal.put(key, REPLY)
        journal.flush()
        assert set(journal.lookup([*keys, *keys])) == set(keys)


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


def test_a_full_batch_is_durable_at_once_and_a_slow_one_after_half_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mistral_eval.record.journal.time.monotonic", lambda: now[0])
    with Journal(tmp_path / "j.sqlite") as journal:
        for number in range(COMMIT_ROWS):
            assert journal.count() == 0
            journal.put(request_key("m", "score", number), REPLY)
        assert journal.count() == COMMIT_ROWS
        now[0] += COMMIT_SECONDS
        journal.put(b"a", REPLY)
        assert journal.count() == COMMIT_ROWS
        now[0] += 0.01
        journal.put(b"b", REPLY)
        assert journal.count() == COMMIT_ROWS + 2


def test_a_commit_writes_the_pages_it_fills_and_no_others(tmp_path):
    """Keys are as good as random: in a tree sorted by key each batch would touch every page."""
    path = tmp_path / "j.sqlite"
    log = path.with_name("j.sqlite-wal")
    with Journal(path) as journal:
        for number in range(20000):
            journal.put(request_key("m", "score", number), REPLY)
            if number % 500 == 499:
                journal.flush()
        written = log.stat().st_size
    assert written < 1.5 * path.stat().st_size


def test_of_two_replies_to_one_key_the_later_counts_here_and_after(tmp_path):
    path = tmp_path / "j.sqlite"
    with Journal(path) as journal:
        for text in ("first", "second"):
            journal.put(b"k", {"text": text})
            journal.put(b"other", REPLY)
            journal.flush()
        assert journal.lookup([b"k"]) == {b"k": {"text": "second"}}
        assert journal.count() == 2
    with Journal(path) as journal:
        assert journal.lookup([b"k"]) == {b"k": {"text": "second"}}
        assert journal.count() == 2
    with closing(sqlite3.connect(path)) as db:
        assert read_replies(db, [b"k"]) == {b"k": {"text": "second"}}


def test_a_killed_process_leaves_what_it_flushed_and_no_lock(tmp_path):
    """Kill -9 right after a flush: the reply is there, and the next process gets in."""
    path = tmp_path / "j.sqlite"
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from mistral_eval.record.journal import Journal
        journal = Journal(Path({str(path)!r}))
        journal.put(b"kept", {{"text": "a"}})
        journal.flush()
        journal.put(b"lost", {{"text": "b"}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    with Journal(path) as journal:
        assert journal.lookup([b"kept", b"lost"]) == {b"kept": {"text": "a"}}


def test_a_second_process_is_sent_away_with_a_sentence(tmp_path):
    with Journal(tmp_path / "j.sqlite"), pytest.raises(JournalError, match="Another process"):
        Journal(tmp_path / "j.sqlite")


def test_a_closed_journal_is_one_file_without_a_write_ahead_log(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.put(b"k", REPLY)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j.lock", "j.sqlite"]


def test_a_folded_journal_is_one_file_that_is_still_ours_and_can_be_written(tmp_path):
    path = tmp_path / "j.sqlite"
    with Journal(path) as journal:
        journal.put(b"k", REPLY)
        journal.fold()
        assert sorted(file.name for file in tmp_path.iterdir()) == ["j.lock", "j.sqlite"]
        with pytest.raises(JournalError, match="Another process"):
            Journal(path)
        journal.put(b"later", REPLY)
    with Journal(path) as journal:
        assert set(journal.lookup([b"k", b"later"])) == {b"k", b"later"}


def test_a_reader_does_not_keep_the_writer_from_closing(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.put(b"k", REPLY)
    journal.flush()
    journal._db.execute("PRAGMA busy_timeout=0")
    with closing(sqlite3.connect(tmp_path / "j.sqlite")) as reader:
        assert reader.execute("SELECT COUNT(*) FROM replies").fetchone() == (1,)
        journal.close()
    with Journal(tmp_path / "j.sqlite") as again:
        assert again.lookup([b"k"]) == {b"k": REPLY}


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look at" * 40, b"\0" * 999]
)
def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "j.sqlite"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="--fresh"):
        Journal(path)
    assert path.read_bytes() == content


def test_somebody_elses_database_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE replies (key, reply)")
    with pytest.raises(JournalError, match="not a journal of this version"):
        Journal(path)


def test_a_newer_journal_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match=f"{APPLICATION_ID:#x} and 99"):
        Journal(path)


def test_a_journal_of_the_version_before_is_refused_and_left_as_it_was(tmp_path):
    """Its keys were made otherwise: none of its replies would be found."""
    path = tmp_path / "j.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE TABLE replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL, "
            "checksum INTEGER NOT NULL) WITHOUT ROWID;"
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=2;"
        )
        with db:
            db.execute("INSERT INTO replies VALUES (?, ?, ?)", (b"k", "{}", checksum(b"k", b"{}")))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"of this version: expected .* schema 3, found .* 2\."):
        Journal(path)
    assert path.read_bytes() == before


def test_rows_that_a_signal_has_written_twice_are_there_once(tmp_path, monkeypatch):
    """Ctrl-C right behind a commit: what is pending is written again, under the same numbers."""
    key = request_key("model", "score", [1, 2], [3])
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.put(key, REPLY)
        kept = list(journal._pending)
        journal.flush()
        journal._pending, journal._last = kept, 0  # as if the flush had ended at its commit
    with Journal(tmp_path / "j.sqlite") as journal:
        assert (journal.count(), journal.lookup([key])) == (1, {key: REPLY})
