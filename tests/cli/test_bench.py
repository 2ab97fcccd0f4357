"""`mistral-eval bench` as a user meets it: a table, one document, files, and refusals."""

import json

import pytest

from mistral_eval.bench import requirements as memory
from mistral_eval.bench.cases import PARTS

TINY = ("bench", "--shape", "tiny", "--contexts", "64,128", "--window", "16", "--decode-tokens", 4)
PNG, SVG = b"\x89PNG\r\n", b"<?xml"


def test_help_lists_the_command_and_its_options(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert "bench" in out.split()
    code, out, _ = cli("bench", "--help")
    assert code == 0
    for option in ("--shape", "--contexts", "--window", "--parts", "--chunk", "--output-path"):
        assert option in out


def test_a_whole_bench_prints_its_tables_and_writes_its_files(cli, tmp_path):
    folder = tmp_path / "new" / "bench"
    code, out, err = cli(*TINY, "-o", folder)
    assert code == 0
    written = {file.name for file in folder.iterdir()}
    drawn = {f"{part}.{kind}" for part in PARTS for kind in ("png", "svg")}
    assert written == {"bench.json", "bench.md", *drawn}
    for name in drawn:
        head = (folder / name).read_bytes()[:6]
        assert head == PNG if name.endswith("png") else head.startswith(SVG)
    page = (folder / "bench.md").read_text()
    for part, title in PARTS.items():
        assert title in out
        assert f"## {title}" in page
        assert f"({part}.png)" in page
    assert "x8.00" in out
    assert "x8.00" in page
    assert max(map(len, out.splitlines()[:-1])) <= 80  # the last line says where and how
    assert "1 of 10" in err
    assert "about 1 min" in err
    document = json.loads((folder / "bench.json").read_text())
    (row,) = [
        row
        for row in document["rows"]
        if (row["part"], row["label"], row["context"]) == ("cache", "rolling", 128)
    ]
    assert row["cache_bytes"] == 2 * 4 * 2 * 16 * 16 * 4
    assert row["cache_ratio"] == 8


def test_json_is_one_document_on_stdout(cli):
    code, out, err = cli(*TINY, "--parts", "cache,prefix", "--json", "-q")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["settings"]["parts"] == ["cache", "prefix"]
    assert {row["part"] for row in document["rows"]} == {"cache"}


def test_parts_can_be_measured_alone(cli):
    code, out, _ = cli(*TINY, "--parts", "prefix", "--quiet")
    assert code == 0
    assert PARTS["prefix"] in out
    assert PARTS["window"] not in out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--shape", "7bb"), 2, "Did you mean 7b?"),
        (("--parts", "cach"), 2, "Did you mean cache?"),
        (("--contexts", "long"), 2, "--contexts takes"),
        (("--window", "0"), 2, "--window takes a number of tokens from 1 up"),
        (("--chunk", "x"), 2, "--chunk takes a number of tokens"),
        (("--dtype", "float8"), 2, "--dtype has no 'float8'"),
        (("--device", "abacus"), 1, "--device abacus cannot be used"),
        (("--clock", "cpus"), 2, "--clock has no 'cpus'. Did you mean cpu?"),
        (("--repeats", "0"), 2, "--repeats"),
    ],
)
def test_wrong_usage_is_one_sentence(cli, arguments, code, sentence):
    found, out, err = cli("bench", *arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_what_does_not_fit_ends_with_one_sentence_and_exit_code_1(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "available_memory", lambda _device: 2 << 30)
    code, out, err = cli("bench", "--shape", "7b", "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("mistral-eval: bench needs ")
    assert "2.00 GiB are free: use smaller --contexts" in err
    assert err.count("\n") == 1


def test_a_chunk_as_long_as_the_context_leaves_room_for_the_first_steps(cli):
    """The warm-up prefills and decodes too, and may not pass the context either."""
    code, out, _ = cli(
        *("bench", "--shape", "tiny", "--contexts", "64", "--window", "256"),
        *("--decode-tokens", "1", "--parts", "window", "-q", "--json"),
    )
    assert code == 0
    assert json.loads(out)
