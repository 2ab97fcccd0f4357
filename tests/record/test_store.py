"""A store of files: what is written can be listed and read, and each fault is one sentence."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mistral_eval.errors import StoreError
from mistral_eval.record.store import Store


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path) -> Store:
    place = tmp_path / "store" if request.param == "file" else f"/{tmp_path.name}-{id(tmp_path)}"
    return Store(f"{request.param}://{place}/runs/")


def test_files_are_written_listed_fetched_and_replaced(store, tmp_path):
    (tmp_path / "local").write_bytes(b"two")
    assert store.sizes() == {}
    store.write("a/b/one", b"1")
    store.write("a/two", tmp_path / "local")
    assert store.sizes() == {"a/b/one": 1, "a/two": 3}
    assert store.sizes("a/b") == {"a/b/one": 1}
    assert store.sizes("b") == {}
    assert (store.is_file("a/two"), store.is_file("a"), store.is_file("b")) == (True, False, False)
    store.write("a/two", b"other")
    assert store.read("a/two") == b"other"
    store.fetch(["a/b/one", "a/two"], tmp_path / "out")
    assert (tmp_path / "out/a/b/one").read_bytes() == b"1"
    assert {p.name for p in (tmp_path / "out/a").iterdir()} == {"b", "two"}
    store.prove_writable("a/.probe")
    assert set(store.sizes()) == {"a/b/one", "a/two"}


def test_another_process_s_files_are_seen(store):
    assert store.sizes() == {}
    Store(store.url).write("x", b"1")
    assert store.sizes() == {"x": 1}


@pytest.mark.parametrize("act", ["fetch", "write", "prove"])
def test_several_at_a_time_copy_one_file(store, tmp_path, act):
    """As tasks of an array do, which begin together and have one home folder."""
    if act == "fetch" and store.url.startswith("memory:"):
        pytest.skip("memory:// gives all readers one file object, with one position")
    content, names = b"x" * 200_000, [f"a/replies/{n}.jsonl" for n in range(20)]
    for name in names:
        store.write(name, content)
    acts = {
        "fetch": lambda one: one.fetch(names, tmp_path / "copy"),
        "write": lambda one: [one.write(name, content) for name in names],
        "prove": lambda one: [one.prove_writable("a/.probe") for _ in names],
    }
    begin = Barrier(4)

    def go(one: Store) -> None:
        begin.wait()
        for _ in range(3):
            acts[act](one)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(go, [Store(store.url) for _ in range(4)]))
    assert set(store.sizes()) == set(names)
    copied = [path for path in tmp_path.glob("copy/**/*") if path.is_file()]
    assert len(copied) == (20 if act == "fetch" else 0)
    assert all(path.read_bytes() == content for path in copied)


def one_sentence(error: StoreError) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("act", ["write", "read", "fetch"])
def test_a_fault_is_one_sentence(act, tmp_path):
    (tmp_path / "file").touch()
    store = Store(f"file://{tmp_path}/file/runs")  # below a file there is no folder
    acts = {
        "write": lambda: store.write("a", b"1"),
        "read": lambda: store.read("a"),
        "fetch": lambda: store.fetch(["a"], tmp_path / "out"),
    }
    with pytest.raises(StoreError) as raised:
        acts[act]()
    assert re.match(rf"file://{tmp_path}/file/runs could not be \w+ \(", one_sentence(raised.value))
    assert "Check the URL, the credentials and the network." in str(raised.value)


def test_an_unknown_protocol_is_named():
    with pytest.raises(StoreError, match=r"gopher://x should be the URL of a store") as raised:
        Store("gopher://x")
    one_sentence(raised.value)


def test_a_store_that_cannot_be_reached_is_named():
    with pytest.raises(StoreError, match=r"ftp://127.0.0.1:1/x could not be reached \(") as raised:
        Store("ftp://127.0.0.1:1/x")
    one_sentence(raised.value)


def test_a_store_that_cannot_list_files_is_named():
    with pytest.raises(StoreError, match=r"data://x could not be read \(this kind") as raised:
        Store("data://x").sizes()
    one_sentence(raised.value)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreError, match=r"pip install 'mistral-eval\[s3\]'") as raised:
        Store("s3://bucket/runs")
    one_sentence(raised.value)
