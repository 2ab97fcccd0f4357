"""A judge rates a run's answers: known ratings, and everything that judges get wrong."""

import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mistral_eval.answers.mt_bench.judge_prompts import reference_answers, single_prompt
from mistral_eval.console import Talk
from mistral_eval.engines.endpoint import Endpoint
from mistral_eval.errors import EngineError, StoppedError, UsageError
from mistral_eval.record.fastchat import read_single_judgments
from mistral_eval.record.judgments import Judgments
from mistral_eval.record.run_record import read_run
from mistral_eval.report.table import render_figure
from mistral_eval.report.table.view import MISSING
from mistral_eval.run import judge_endpoint
from mistral_eval.run.asking_judge import ATTEMPTS, HOPELESS, JudgeQueue
from mistral_eval.run.judge_endpoint import KEYS, EndpointJudge, say_absent
from mistral_eval.run.rating import RatedTurn, is_rated, read_judgments
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

QUIET = Talk(quiet=True)


def is_second(body) -> bool:
    return "second" in body["messages"][0]["content"]


def by_turn(number, body):
    """8 for a first turn, 5.5 for a second one."""
    return said(f"Well.\n\nRating: [[{5.5 if is_second(body) else 8}]]")


def settings_in(folder, judge=None, **changed) -> RunSettings:
    fields = {"tasks": (MT_BENCH.id,), "engine": "random", "data": "sample", "limit": 8}
    rated = {"judge_url": judge.url, "judge_model": "judge-1"} if judge else {}
    return RunSettings(**{**fields, **rated, "output_path": folder, **changed})


def cell_of(folder):
    return read_run(folder)["scores"][MT_BENCH.id]


def ratings_of(folder):
    return read_run(folder)["ratings"][MT_BENCH.id]


def test_known_ratings_give_the_known_mean(tmp_path):
    """8 and 5.5 for each question: 6.75, with the scale and the interval over questions."""
    with JudgeServer(by_turn) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        again = run_suite(settings_in(tmp_path, judge), QUIET)
        asked = judge.asked

    assert again == folder
    assert len(asked) == 16  # two turns of eight questions, each once
    mean, *rest = cell_of(folder)["notes"]
    assert "mean rating 6.75 [6.75, 6.75], rated from 1 to 10 by judge-1, read by our" in mean
    assert "by turn: turn 1 8.00, turn 2 5.50; by category: writing 6.75, roleplay" in rest[0]
    rows = ratings_of(folder)["rows"]
    assert {(row["turn"], row["ours"], row["fastchat"]) for row in rows} == {
        (1, 8.0, 8.0), (2, 5.5, 5.5),
    }  # fmt: skip
    table = render_figure([folder], "chat", "md")
    (row,) = [line for line in table.splitlines() if line.startswith("| random")]
    assert [part.strip() for part in row.strip("|").split("|")] == [
        "random", MISSING, "6.75", "6.75", "6.75", "8", "0", "judge-1, our rule",
    ]  # fmt: skip


def test_the_judge_gets_fastchats_request(tmp_path):
    """Its prompts, temperature 0, 2048 tokens; the reference for questions 101 to 130 only."""
    with JudgeServer(by_turn) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        asked = judge.asked
    (file,) = folder.glob("samples_*")
    expected = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        doc, answers = row["doc"], [text for (text,) in row["resps"]]
        references = reference_answers().get(doc["question_id"])
        assert (references is None) == (not 101 <= doc["question_id"] <= 130)
        expected += [
            list(single_prompt(doc["turns"], answers, turn, references).messages) for turn in (1, 2)
        ]

    assert sorted(map(str, expected)) == sorted(str(body["messages"]) for body in asked)
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in asked} == {
        ("judge-1", 0.0, 2048)
    }


def test_a_rescoring_reads_the_judgments_without_the_judge(tmp_path):
    with JudgeServer(by_turn) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    before, cell = ratings_of(folder), cell_of(folder)
    (folder / "model_judgment.jsonl").unlink()
    rescore(folder, QUIET, unsafe_code=False)

    assert (ratings_of(folder), cell_of(folder)) == (before, cell)
    lines = read_single_judgments(folder / "model_judgment.jsonl")
    assert {(one.judge[0], one.turn, one.score) for one in lines} == {
        ("judge-1", 1, 8.0), ("judge-1", 2, 5.5),
    }  # fmt: skip
    assert all("Rating: [[" in one.judgment and one.user_prompt for one in lines)


def test_a_rescoring_without_the_judgments_is_an_error(tmp_path):
    with JudgeServer(by_turn) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    for file in (folder / "judgments" / "replies").iterdir():
        file.unlink()
    with pytest.raises(EngineError, match="should be in the run's folder, and is not"):
        rescore(folder, QUIET, unsafe_code=False)


def test_a_larger_run_asks_only_for_what_no_run_beside_it_has(tmp_path):
    with JudgeServer(by_turn) as judge:
        run_suite(settings_in(tmp_path, judge), QUIET)
        larger = run_suite(settings_in(tmp_path, judge, limit=16), QUIET)
        asked = len(judge.asked)
    rescore(larger, QUIET, unsafe_code=False)  # all of them are in its own folder now

    assert asked == 32
    assert len(ratings_of(larger)["rows"]) == 32


def test_another_judge_is_asked_everything_and_the_answers_are_not_computed_again(tmp_path):
    with JudgeServer(by_turn) as judge:
        run_suite(settings_in(tmp_path, judge), QUIET)
        other = run_suite(settings_in(tmp_path, judge, judge_model="judge-2"), QUIET)
        assert len(judge.asked) == 32

    assert read_run(other)["counts"]["computed"] == 0
    assert "by judge-2 (judge-1), read by" in cell_of(other)["notes"][0]


@pytest.mark.parametrize(
    ("text", "fastchat"),
    [
        ("", None),
        (None, None),
        ("It is good.", None),
        ("Rating: [[5, 1, 3]]", None),
        ("Rating: [[70]]", 70.0),
        ("Rating: [[0]]", 0.0),
        ([{"type": "text"}], None),
    ],
    ids=["nothing", "null", "no rating", "a list", "above", "below", "no text"],
)
def test_a_judgment_without_a_rating_is_asked_again_then_counted(tmp_path, text, fastchat):
    """One judgment of the 16 is never readable: three attempts, and none of its neighbours'."""
    bad: list[str] = []

    def answer(number, body):
        user = body["messages"][1]["content"]
        if not bad:
            bad.append(user)
        return said(text) if user == bad[0] else said("Rating: [[7]]")

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        run_suite(settings_in(tmp_path, judge, fresh=False), QUIET)
        assert len(judge.asked) == 15 + ATTEMPTS
    ratings = ratings_of(folder)
    (unread,) = [row for row in ratings["rows"] if row["ours"] is None]

    assert unread["fastchat"] == fastchat
    notes = " ".join(cell_of(folder)["notes"])
    assert "mean rating 7.00 [" in notes
    assert "1 of 16 judgments hold no readable rating after 18 attempts in all" in notes
    assert f"with each as -1 the mean is {(15 * 7 - 1) / 16:.2f}" in notes
    assert ("FastChat's rule of reading gives" in notes) == (fastchat is not None)
    table = render_figure([folder], "chat", "md")
    assert "| 1 (6.50 with each as -1) |" in table


def test_a_later_attempt_that_can_be_read_counts(tmp_path):
    seen: dict[str, int] = {}

    def answer(number, body):
        user = body["messages"][1]["content"]
        seen[user] = seen.get(user, 0) + 1
        return said("Hm.") if seen[user] < ATTEMPTS else said("[[9]]")

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == 16 * ATTEMPTS
    assert {row["ours"] for row in ratings_of(folder)["rows"]} == {9.0}


def test_a_judge_that_changes_its_name_is_named_by_all_of_them(tmp_path):
    def answer(number, body):
        return said("[[7]]", "judge-0613" if is_second(body) else "judge-0125")

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    notes = " ".join(cell_of(folder)["notes"])

    assert ratings_of(folder)["versions"] == {"judge-0125": 8, "judge-0613": 8}
    assert "by judge-1 (judge-0125, judge-0613)" in notes
    assert "answered under 2 names, judge-0125 (8), judge-0613 (8): ratings of different" in notes


def test_a_server_that_gives_no_name_leaves_the_name_that_was_asked_for(tmp_path):
    with JudgeServer(lambda number, body: said("[[7]]", None)) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    assert ratings_of(folder)["versions"] == {}
    assert "rated from 1 to 10 by judge-1, read" in cell_of(folder)["notes"][0]


def test_a_judge_that_nobody_answers_for_is_said_before_the_answers(tmp_path, capsys):
    """And the answers are computed: the same command asks a judge that has come meanwhile."""
    with socket.socket() as silent:  # it does not listen, and keeps the port
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        asked: set[str] = set()
        say_absent(url, Talk(), asked)
        absent = " ".join(capsys.readouterr().err.split())
        assert absent.startswith("The judge cannot be asked yet; answers are computed meanwhile. ")
        assert f"Nothing answers at {url}" in absent
        say_absent(url, Talk(), asked)
        assert capsys.readouterr().err == ""
        rated = {"judge_url": url, "judge_model": "judge-1", "limit": 1}
        with pytest.raises(EngineError, match="Nothing answers"):
            run_suite(settings_in(tmp_path, **rated), Talk())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["The", "MT-Bench"]


class Models(BaseHTTPRequestHandler):
    """Answers for its models with the status that its server has."""

    def do_GET(self) -> None:
        status, content = self.server.answer
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "30")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.mark.parametrize(
    ("status", "content", "said_of_it"),
    [
        (200, b'{"data": []}', ""),
        (404, b"none of ours", ""),
        (200, b"<html>", "The judge cannot be asked yet"),
        (501, b"", ""),
        (503, b"loading", ""),
        (401, b"no", "wants an API key (HTTP 401)"),
        (403, b"no", "wants an API key (HTTP 403: no)"),
    ],
)
def test_a_judge_that_answers_at_all_is_there(capsys, monkeypatch, status, content, said_of_it):
    """One that is loading, and asks to wait, is not waited for."""
    monkeypatch.setattr(judge_endpoint, "PATIENCE", 2.0)
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        server.answer = (status, content)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        say_absent(f"http://127.0.0.1:{server.server_address[1]}", Talk(), set())
        server.shutdown()
        thread.join()
    said_now = " ".join(capsys.readouterr().err.split())
    assert bool(said_now) is bool(said_of_it)
    assert said_of_it in said_now


def prompts(count=6):
    return [
        RatedTurn(200 + n, 1, "writing", single_prompt([f"question {n}"], ["answer"], 1))
        for n in range(count)
    ]


def ask(folder, url, turns, **endpoint):
    """Ask for judgments as a run does, with an endpoint that does not try for minutes."""
    folder.mkdir(exist_ok=True)
    fields = {"retries": 0, "timeout": 20.0, "in_flight": 1, "option": "--judge-url"}
    with Judgments.writing(folder, "judge-1", reuses=False) as kept:
        judge = EndpointJudge(Endpoint(url, **{**fields, **endpoint}), "judge-1")
        JudgeQueue(judge, kept, QUIET, is_rated).ask([turn.prompt for turn in turns])
        return read_judgments(turns, "judge-1", kept)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ((500, {"error": {"message": "overloaded"}}), "answered HTTP 500: overloaded"),
        (None, "broke the connection"),
        ((200, {"error": "no"}), "answered with an error: no"),
        ((200, {"choices": []}), r"should answer with choices\[0\].message.content"),
        ((200, [1]), "its reply has another form"),
    ],
    ids=["status", "cut", "no choices", "empty choices", "a list"],
)
def test_what_arrived_before_a_failure_is_not_asked_again(tmp_path, broken, sentence):
    with JudgeServer(lambda number, body: broken if number > 2 else said("[[7]]")) as judge:
        with pytest.raises(EngineError, match=sentence) as raised:
            ask(tmp_path / "run", judge.url, prompts())
        assert len(judge.asked) == 6
    assert "did not answer all of 6 prompts" in str(raised.value)

    with JudgeServer(lambda number, body: said("[[3]]")) as judge:
        found = ask(tmp_path / "run", judge.url, prompts())
        assert len(judge.asked) == 4
    assert [row.ours for row in found.rows] == [7.0, 7.0, 3.0, 3.0, 3.0, 3.0]


def test_a_judge_that_times_out_says_what_helps(tmp_path):
    with (
        JudgeServer(lambda number, body: said("[[7]]"), delay=1.0) as judge,
        pytest.raises(EngineError, match=r"did not answer within 0\.1 s"),
    ):
        ask(tmp_path / "run", judge.url, prompts(1), timeout=0.1)


@pytest.mark.parametrize(
    ("status", "most", "sentence"),
    [
        (401, 1, "wants an API key"),
        (404, 1, "Correct --judge-url or the model's name"),
        (500, HOPELESS, "HTTP 500"),
        (400, HOPELESS, r"did not answer all of 30 prompts\. .* HTTP 400"),
    ],
)
def test_a_judge_without_hope_is_not_asked_everything(tmp_path, status, most, sentence):
    with JudgeServer(lambda number, body: (status, {})) as judge:
        with pytest.raises(EngineError, match=sentence):
            ask(tmp_path / "run", judge.url, prompts(30))
        assert most <= len(judge.asked) <= most + 2  # one may be under way


def test_nothing_listens(tmp_path):
    with JudgeServer(lambda number, body: None) as judge:
        url = judge.url
    with pytest.raises(EngineError, match="Start the server, or correct --judge-url"):
        ask(tmp_path / "run", url, prompts())


def test_a_prompt_that_the_server_refuses_is_counted_and_the_others_are_rated(tmp_path):
    def answer(number, body):
        if "question 0" in body["messages"][1]["content"]:
            return 400, {"error": {"message": "too long"}}
        return said("[[7]]")

    with JudgeServer(answer) as judge:
        found = ask(tmp_path / "run", judge.url, prompts())
        assert len(judge.asked) == 5 + ATTEMPTS
        assert ask(tmp_path / "run", judge.url, prompts()) == found
        assert len(judge.asked) == 5 + ATTEMPTS
    assert [row.ours for row in found.rows] == [None, 7.0, 7.0, 7.0, 7.0, 7.0]
    assert found.refused == 1


def test_ctrl_c_keeps_what_arrived_and_the_same_command_asks_for_the_rest(tmp_path):
    def answer(number, body):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return by_turn(number, body)

    with JudgeServer(answer) as judge:
        settings = settings_in(tmp_path, judge, limit=16)
        with pytest.raises(StoppedError, match="the same command resumes"):
            run_suite(settings, QUIET)
        stopped = len(judge.asked)
        folder = run_suite(settings, QUIET)
        assert stopped < 32
        assert len(judge.asked) == 32
    assert len(ratings_of(folder)["rows"]) == 32


def test_the_key_goes_to_the_judge_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MISTRAL_EVAL_JUDGE_API_KEY", "sk-judge")
    monkeypatch.setenv("MISTRAL_EVAL_API_KEY", "sk-server")
    with JudgeServer(by_turn) as judge:
        folder = run_suite(settings_in(tmp_path, judge, limit=1), QUIET)
        assert set(judge.keys) == {"Bearer sk-judge"}
    written = [file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file()]
    assert not any("sk-" in text for text in written)


def test_a_run_without_a_judge_says_so_and_has_no_row_in_the_chat_table(tmp_path):
    folder = run_suite(settings_in(tmp_path), QUIET)

    assert "ratings" not in read_run(folder)
    assert "the answers are not rated: --judge-url and --judge-model" in cell_of(folder)["notes"][0]
    with pytest.raises(UsageError, match=r"has no ratings\. Run mt_bench with --judge-url"):
        render_figure([folder], "chat", "md")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"judge_model": "gpt-4"}, "Give --judge-url or --judge-engine too"),
        ({"judge_url": "http://localhost/v1"}, "Give --judge-model too"),
        ({"judge_model": "gpt-4", "judge_url": "localhost"}, "--judge-url should be like http"),
        (
            {"judge_model": "gpt-4", "judge_url": "http://localhost", "tasks": ("piqa",)},
            "rates conversations, and this run has none",
        ),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_before_anything_is_computed(
    tmp_path, changed, sentence
):
    with pytest.raises(UsageError, match=sentence):
        run_suite(settings_in(tmp_path, **changed), QUIET)
    assert not any(tmp_path.iterdir())


def test_the_url_does_not_choose_the_folder():
    one, other = (
        RunSettings(tasks=(MT_BENCH.id,), judge_model="gpt-4", judge_url=url)
        for url in ("http://a/v1", "http://b/v1")
    )
    plain = RunSettings(tasks=(MT_BENCH.id,))

    assert one.run_id({}) == other.run_id({}) != plain.run_id({})
