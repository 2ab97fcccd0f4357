"""Whole runs through a server: what fails, what is kept, what is asked again, what is said.

The server counts. Nothing that it answered may be asked a second time by the same command.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mistral_eval.engines.native import open_native
from mistral_eval.record.replies import Replies
from tests.stub_server import BigramModel, Fault, NativeModel, Quirks, Stub

TASKS = "nq,gsm8k,mmlu"
PROBE = 60  # requests at most, before the questions


@pytest.fixture(scope="module")
def model() -> BigramModel:
    return BigramModel(open_native("tiny").tokenizer)


def options(stub: Stub, output: Path, tasks: str = TASKS, **args) -> list[str]:
    given = {"max_retries": 1, "num_concurrent": 8, **args}
    listed = ",".join(f"{name}={value}" for name, value in given.items())
    return [
        *("run", "-t", tasks, "-m", "tiny", "--data", "sample", "-L", "3", "-o", str(output)),
        *("--engine", "server", "--base-url", stub.url, "--model-args", listed, "--json"),
    ]


def asked(stub: Stub, since: int = 0) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in stub.asked[since:])


def answered(stub: Stub, since: int = 0) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in stub.settled()[since:])


def is_question(body: dict) -> bool:
    """A request of the run, not of the probe, whose texts are short."""
    return len(body["prompt"]) > 100


def scores(output: Path) -> dict:
    (file,) = output.rglob("run.json")
    return {name: cell["value"] for name, cell in json.loads(file.read_text())["scores"].items()}


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """The verdicts and the number of requests of a run that nothing disturbs."""
    output = tmp_path_factory.mktemp("undisturbed")
    with Stub(model) as stub:
        done = started(stub, output)
        assert done.wait(300) == 0, done.stderr.read()
        return samples(output), Counter(map(is_question, stub.asked))[True]


def samples(output: Path) -> dict[str, list]:
    """Each benchmark's replies as the samples files have them."""
    found = {}
    for file in sorted(output.rglob("samples_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.name.split("_20")[0]] = [row["resps"] for row in rows]
    return found


def started(stub: Stub, output: Path, env=None, **args) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mistral_eval", *options(stub, output, **args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def test_a_run_ends_with_its_table_and_says_what_answered(cli, model, tmp_path, undisturbed):
    with Stub(model) as stub:
        code, out, err = cli(*options(stub, tmp_path))
        assert code == 0, err
        assert json.loads(out)
        assert samples(tmp_path) == undisturbed[0]
        (file,) = tmp_path.rglob("run.json")
        run = json.loads(file.read_text())
        assert run["engine"] == "server"
        assert run["identity"]["weights"] == f"{stub.url} tiny"
        assert any(f"answered by the server at {stub.url}" in note for note in run["notes"])
        assert run["model"]["server"]["traits"]["takes_ids"] is True
        before = len(stub.asked)
        assert cli(*options(stub, tmp_path))[0] == 0
        assert len(stub.asked) == before
    assert cli("rescore", file.parent, "--quiet")[0] == 0  # without the server


def test_replies_are_verified_with_the_native_engine(cli, tmp_path):
    """Scores, and greedy replies by their ids; samples are other draws."""
    with Stub(NativeModel(open_native("tiny"))) as stub:
        code, _, err = cli(*options(stub, tmp_path, "piqa,nq"), "--verify", "8")
    assert code == 0, err
    assert "Verified 8 requests with the native engine" in err
    (file,) = tmp_path.rglob("run.json")
    assert set(json.loads(file.read_text())["verify"]["requests"]) == {"score", "generate"}


def test_a_server_of_other_weights_is_found_out(cli, model, tmp_path):
    with Stub(model) as stub:
        code, _, err = cli(*options(stub, tmp_path, "piqa"), "--verify", "2")
    assert code == 1
    assert "has the log-probability" in err
    assert "with the native engine" in err


def test_verify_without_the_models_weights_is_refused_before_anything_is_asked(
    cli, model, tmp_path
):
    with Stub(model) as stub:
        args = [*options(stub, tmp_path, "piqa"), "--verify", "2"]
        args[args.index("tiny")] = "a/served-name"
        code, _, err = cli(*args)
    assert code == 2
    assert not stub.asked
    assert "a/served-name is no folder or file here" in err


EVERY_TENTH = {
    "status 500": Fault(500),
    "429 with Retry-After": Fault(429, {"Retry-After": "0.2"}),
    "a broken connection": Fault(drop=True),
    "half of the JSON": Fault(truncate=True),
    "a slow reply": Fault(delay=0.3),
}


@pytest.mark.parametrize("name", EVERY_TENTH)
def test_a_server_that_fails_every_tenth_request_once(cli, model, tmp_path, undisturbed, name):
    seen: set[str] = set()

    def fault(number: int, body: dict) -> Fault | None:
        text = json.dumps(body, sort_keys=True)
        is_first = text not in seen
        seen.add(text)
        return EVERY_TENTH[name] if is_first and number % 10 == 0 else None

    with Stub(model, fault=fault) as stub:
        code, _, err = cli(*options(stub, tmp_path, max_retries=3))
        assert code == 0, err
        assert samples(tmp_path) == undisturbed[0]
        questions = [body for body in stub.settled() if is_question(body)]
        assert len(questions) == undisturbed[1]


def test_replies_that_come_out_of_order_belong_to_their_questions(
    cli, model, tmp_path, undisturbed
):
    with Stub(model, fault=lambda number, body: Fault(delay=0.3 * (number % 3 == 0))) as stub:
        assert cli(*options(stub, tmp_path))[0] == 0
        assert samples(tmp_path) == undisturbed[0]


def test_one_question_that_fails_for_ever_is_named_and_alone_asked_again(
    cli, model, tmp_path, undisturbed
):
    """A score and a generation fail; the other requests of both kinds are answered all the same."""
    broken = {"score": None, "generate": None}

    def fault(number: int, body: dict) -> Fault | None:
        if not is_question(body):
            return None
        kind = "generate" if body["max_tokens"] > 1 else "score"
        text = json.dumps(body, sort_keys=True)
        if broken[kind] is None:
            broken[kind] = text
        return Fault(500, said=f"out of memory ({kind})") if text == broken[kind] else None

    with Stub(model, fault=fault) as stub:
        code, out, err = cli(*options(stub, tmp_path))
        assert (code, out) == (1, "")
        sentence = err.splitlines()[-1]
        assert sentence.startswith("mistral-eval: The run is not complete: ")
        assert "mmlu question" in sentence
        assert "out of memory (score)" in sentence
        assert "out of memory (generate)" in sentence
        assert "same command again" in sentence
        assert "Traceback" not in err
        assert list(tmp_path.rglob("run.json")) == []
        first = {
            text: count for text, count in answered(stub).items() if is_question(json.loads(text))
        }
        assert len(first) == undisturbed[1] - 2
        since = len(stub.asked)
        stub.fault = lambda number, body: None
        code, _, err = cli(*options(stub, tmp_path))
        assert code == 0, err
        again = [body for body in stub.asked[since:] if is_question(body)]
        assert sorted(json.dumps(one, sort_keys=True) for one in again) == sorted(broken.values())
        assert samples(tmp_path) == undisturbed[0]


@pytest.mark.slow
def test_a_server_that_is_stopped_with_200_requests_in_flight(model, tmp_path):
    """The run ends with a sentence; the same command asks for nothing that was answered."""
    args = {"tasks": "gsm8k,math,nq,triviaqa,mmlu", "num_concurrent": 200, "max_retries": 0}
    gate = threading.Event()
    number = itertools.count()

    def fault(_: int, body: dict) -> Fault | None:
        return Gate(gate) if is_question(body) and next(number) >= 40 else None

    with Stub(model, fault=fault) as stub:
        process = started_with(stub, tmp_path, args)
        try:
            wait_until(lambda: stub.now >= 200 and sum(map(is_question, stub.answered)) >= 40)
            stub.crash()
        finally:
            gate.set()
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (1, "")
        assert "Traceback" not in err
        assert "run the same command again" in err.splitlines()[-1]
        kept = [body for body in stub.settled() if is_question(body)]
    with Stub(model, port=stub.port) as again:
        process = started_with(again, tmp_path, args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert [one for one in map(dumped, kept) if one in asked(again)] == []
        assert len(kept) >= 40
        (file,) = tmp_path.rglob("run.json")
        counts = json.loads(file.read_text())["counts"]
        replies = {dumped(body): replies_to(body) for body in (*kept, *again.settled())}
        assert counts["from_log"] == sum(map(replies_to, kept))
        assert counts["from_log"] + counts["computed"] == sum(
            count for text, count in replies.items() if is_question(json.loads(text))
        )


def replies_to(body: dict) -> int:
    """How many of the run's replies one reply of the server holds."""
    return len(body.get("logprob_token_ids", [0]))


@dataclass(frozen=True)
class Gate:
    """A fault that holds a request back until the gate is opened."""

    gate: threading.Event
    status: int = 200
    drop: bool = True

    @property
    def delay(self) -> float:
        """Wait, and then do not sleep."""
        self.gate.wait(120)
        return 0.0


def dumped(body: dict) -> str:
    return json.dumps(body, sort_keys=True)


def started_with(stub: Stub, output: Path, args: dict) -> subprocess.Popen[str]:
    given = dict(args)
    tasks = given.pop("tasks")
    listed = options(stub, output, tasks, **given)
    listed[listed.index("-L") + 1] = "16"
    return subprocess.Popen(
        [sys.executable, "-m", "mistral_eval", *listed],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_asks_only_for_the_rest(model, tmp_path, undisturbed, kind):
    with Stub(model, fault=lambda number, body: Fault(delay=0.05)) as stub:
        process = started(stub, tmp_path, num_concurrent=2)
        wait_until(lambda: Counter(map(is_question, stub.answered))[True] >= 12)
        process.send_signal(kind)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if kind == signal.SIGKILL else 128 + kind), err
        first = [body for body in stub.settled() if is_question(body)]
        since = len(stub.asked)
        process = started(stub, tmp_path, num_concurrent=2)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        second = [body for body in stub.asked[since:] if is_question(body)]
        twice = {dumped(one) for one in first} & {dumped(one) for one in second}
        # SIGKILL loses what half a second brought; the others lose nothing
        assert not twice or (kind == signal.SIGKILL and len(twice) <= 14)
        assert samples(tmp_path) == undisturbed[0]


@pytest.mark.slow
def test_what_came_before_a_long_silence_is_kept_through_a_sigkill(model, tmp_path):
    """A reply is in the log within a second, not only when the next one comes."""
    gate = threading.Event()
    number = itertools.count()

    def fault(_: int, body: dict) -> Fault | None:
        return Gate(gate) if is_question(body) and next(number) >= 6 else None

    with Stub(model, fault=fault) as stub:
        process = started(stub, tmp_path, num_concurrent=12)
        try:
            wait_until(lambda: sum(map(is_question, stub.answered)) == 6 and stub.now >= 3)
            time.sleep(2)
            process.kill()
            process.communicate(timeout=60)
        finally:
            gate.set()
        (folder,) = {file.parent.parent for file in tmp_path.rglob("replies/*.jsonl")}
        kept = [replies_to(body) for body in stub.settled() if is_question(body)]
        assert Replies(folder).count() == sum(kept)


SECRET = "sk-not-to-be-seen-4711"


@pytest.mark.parametrize(
    ("url", "args"),
    [
        (f"http://127.0.0.1:1/v1?key={SECRET}", ""),
        (f"http://me:{SECRET}@127.0.0.1:1/v1", ""),
        (f"me:{SECRET}@127.0.0.1:1/v1", ""),
        ("http://127.0.0.1:1/v1", f"api_key={SECRET}"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_before_it_is_written(cli, tmp_path, url, args):
    given = ["run", "-t", "nq", "-m", "tiny", "--data", "sample", "-o", tmp_path]
    given += ["--engine", "server", "--base-url", url]
    found = cli(*given, *(["--model-args", args] if args else []))
    said = one_sentence(found, 2)
    assert "environment variable MISTRAL_EVAL_API_KEY" in said
    assert SECRET not in found[1] + found[2]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


def test_the_api_key_is_in_no_file_and_no_message(cli, model, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def fault(number: int, body: dict) -> Fault | None:
        return Fault(400, said=f"bad key {SECRET}") if body["max_tokens"] == 32 else None

    with Stub(model, Quirks(key=SECRET), fault) as stub:
        code, out, err = cli(*options(stub, tmp_path))
        assert code == 1
        assert "***" in err
        said = out + err
        stub.fault = lambda number, body: None
        code, out, err = cli(*options(stub, tmp_path))
        assert code == 0, err
        said += out + err
    assert SECRET not in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


def one_sentence(found: tuple[int, str, str], code: int) -> str:
    """What the run says last, after checking that it is one error and no traceback."""
    assert found[0] == code, found
    assert "Traceback" not in found[2]
    return found[2].splitlines()[-1].removeprefix("mistral-eval: ")


def test_nothing_listening_is_one_sentence(cli, model, tmp_path):
    with Stub(model) as stub:
        pass
    said = one_sentence(cli(*options(stub, tmp_path)), 1)
    assert said.startswith(f"Nothing answers at {stub.url} (")
    assert said.endswith("Start the server, or correct --base-url.")


@pytest.mark.parametrize(
    ("quirks", "sentence"),
    [
        (Quirks(names=("other",)), "serves other, and --model is tiny"),
        (Quirks(key="sk-theirs"), "wants an API key (HTTP 401)"),
        (Quirks(max_model_len=96), "leave no room for a prompt in a context of 96"),
        (
            Quirks(prompt_logprobs=False, echo=False),
            (
                "does not support the log-likelihoods that mmlu needs (it accepts echo and "
                "returns no log-probabilities of the prompt). --tasks nq,gsm8k still runs"
            ),
        ),
        (
            Quirks(temperature=False),
            (
                "does not support the independent samples that gsm8k needs (8 samples at "
                "temperature 1.5 were 8 equal replies). --tasks mmlu,nq still runs"
            ),
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(cli, model, tmp_path, quirks, sentence, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Stub(model, quirks) as stub:
        found = cli(*options(stub, tmp_path))
        assert sentence in one_sentence(found, 2 if "does not support" in sentence else 1)
        assert not any(map(is_question, stub.asked))


def test_a_wrong_url_is_one_sentence(cli, model, tmp_path):
    with Stub(model) as stub:
        stub.url += "/nowhere"
        said = one_sentence(cli(*options(stub, tmp_path)), 1)
    assert "nowhere/models" in said
    assert "Correct --base-url" in said


def test_a_prompt_longer_than_the_servers_real_context_is_a_failure(cli, model, tmp_path):
    with Stub(model, Quirks(max_model_len=900)) as stub:
        said = one_sentence(cli(*options(stub, tmp_path, max_length=8000)), 1)
    assert "This model's maximum context length is 900 tokens" in said
    assert "The run is not complete" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "server"], "give --base-url"),
        (["--base-url", "http://h/v1"], "--base-url is the URL of --engine server"),
        (["--engine", "server", "--base-url", "localhost:8000"], "--base-url should be like"),
        (
            ["--engine", "server", "--base-url", "http://h", "--dtype", "float32"],
            "--dtype is decided",
        ),
        (
            ["--engine", "server", "--base-url", "http://h", "--device", "cpu"],
            "--device is decided",
        ),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(cli, tmp_path, arguments, sentence):
    given = ("run", "-t", "nq", "-m", "tiny", "--data", "sample", "-o", tmp_path, *arguments)
    assert sentence in one_sentence(cli(*given), 2)
