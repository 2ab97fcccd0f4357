"""Conversations through a completions server: asked as token ids of the model's own format."""

import json

import pytest

from mistral_eval.engines.native import open_native
from tests.stub_server import NativeModel, Quirks, Stub

CHATS = "xstest,moderation,mt_bench"


@pytest.fixture(scope="module")
def model() -> NativeModel:
    return NativeModel(open_native("tiny"))


def run_at(cli, url, output, tasks=CHATS, *more):
    given = ("--engine", "server", "--base-url", url, "--model-args", "max_retries=1")
    if url is None:
        given = ("--engine", "native", "--device", "cpu")
    data = ("--data", "sample", "-L", "2", "-o", output, "--json", "-q")
    return cli("run", "-t", tasks, "-m", "tiny", *data, *given, *more)


def replies_of(output):
    found = {}
    for file in sorted(output.rglob("samples_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.name.split("_20")[0]] = [(row["doc_id"], row["resps"]) for row in rows]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ids", ["token_ids", "none"])
def test_greedy_replies_are_those_of_the_native_engine(cli, tmp_path, model, ids):
    """Also where the server returns text alone, whose first word has the prompt's space."""
    tasks = "xstest,moderation"
    code, _, err = run_at(cli, None, tmp_path / "native", tasks)
    assert code == 0, err
    with Stub(model, Quirks(ids=ids)) as stub:
        code, _, err = run_at(cli, stub.url, tmp_path / "server", tasks)
        assert code == 0, err
        prompts = [body["prompt"] for body in stub.asked if len(body["prompt"]) > 60]
    assert replies_of(tmp_path / "server") == replies_of(tmp_path / "native")
    assert all(isinstance(prompt, list) for prompt in prompts)


@pytest.mark.slow
def test_both_turns_are_asked_and_a_rescoring_finds_them_without_the_server(cli, tmp_path, model):
    with Stub(model) as stub:
        code, _, err = run_at(cli, stub.url, tmp_path, CHATS, "--verify", "2")
        assert code == 0, err
        before = len(stub.asked)
        assert run_at(cli, stub.url, tmp_path, CHATS, "--verify", "2")[0] == 0
        assert len(stub.asked) == before
    found = replies_of(tmp_path)
    assert {len(replies) for _, replies in found["samples_mt_bench"]} == {2}
    (file,) = tmp_path.rglob("run.json")
    notes = json.loads(file.read_text())["notes"]
    assert any("asked in Mistral's instruct format V1" in note for note in notes)
    code, _, err = cli("rescore", file.parent, "-q")
    assert code == 0, err


def test_a_server_that_takes_texts_alone_is_refused_before_a_question(cli, tmp_path, model):
    with Stub(model, Quirks(takes_ids=False)) as stub:
        code, _, err = run_at(cli, stub.url, tmp_path, "xstest")
        assert all(len(body["prompt"]) < 200 for body in stub.asked)
    assert code == 2
    assert "--engine server takes texts, and xstest asks conversations" in err
