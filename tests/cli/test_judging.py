"""Pairs and repeated runs from the command line."""

import json

import pytest

from tests.judge_server import JudgeServer, said

RUN = ("run", "-t", "mt_bench", "--engine", "random", "--data", "sample", "-L", 8, "-q")


def answer(number, body):
    is_pair = "[[A]]" in body["messages"][0]["content"]
    return said("[[C]]" if is_pair else "Rating: [[7]]")


@pytest.fixture
def judge():
    with JudgeServer(answer) as server:
        yield server


def test_a_run_is_compared_with_another_ones_answers(cli, tmp_path, judge):
    asks = ("--judge-url", judge.url, "--judge-model", "judge-1", "-o", tmp_path, "--json")
    assert cli(*RUN, "-o", tmp_path)[0] == 0
    (other,) = (tmp_path / "random").iterdir()
    code, out, _ = cli(*RUN, *asks, "--seed", 1, "--judge-pairwise", other)
    assert code == 0
    assert len(judge.asked) == 16 + 32  # ratings, and pairs in both orders
    table3, pairs, _ = json.loads(out)["sections"]
    assert (table3["rows"][-1][2], pairs["rows"][0][2:6]) == ("7.00", ["0", "0", "16", "50.0"])

    (run,) = (one for one in (tmp_path / "random").iterdir() if one != other)
    stored = ("--judge-only", run, "--judge-pairwise", other)
    code, again, _ = cli("run", "-t", "mt_bench", "--data", "sample", "-q", *asks, *stored)
    assert code == 0
    assert json.loads(again)["sections"][1]["rows"] == pairs["rows"]
    assert len(judge.asked) == 48


def test_a_runs_answers_are_rated_without_its_model(cli, tmp_path, judge):
    cli(*RUN, "-o", tmp_path)
    (run,) = (tmp_path / "random").iterdir()
    asks = ("--judge-url", judge.url, "--judge-model", "judge-1", "-o", tmp_path, "--json")
    code, out, _ = cli(
        "run", "-t", "mt_bench", "--data", "sample", "-q", *asks, "--judge-only", run
    )
    assert code == 0
    assert json.loads(out)["sections"][0]["rows"][-1][:3] == ["random", "—", "7.00"]


def test_iterations_print_one_row_with_the_deviation(cli, tmp_path, judge):
    asks = ("--judge-url", judge.url, "--judge-model", "judge-1", "-o", tmp_path, "--json")
    code, out, _ = cli(*RUN, *asks, "--iterations", 2)
    assert code == 0
    assert json.loads(out)["sections"][0]["rows"][-1][2] == "7.00 ± 0.00 (2 runs)"
    folders = sorted((tmp_path / "random").iterdir())
    assert len(folders) == 2

    last = max(folders, key=lambda run: json.loads((run / "run.json").read_text())["date"])
    code, _, _ = cli("run", "--config", last / "run.json", "--json", "-q")
    assert code == 0
    assert len(judge.asked) == 32


def test_answers_that_are_not_there_are_said_before_anything_is_computed(cli, tmp_path, judge):
    asks = ("--judge-url", judge.url, "--judge-model", "judge-1", "-o", tmp_path / "results")
    code, _, err = cli(*RUN, *asks, "--judge-pairwise", tmp_path / "nothing.jsonl")
    assert (code, "nothing.jsonl is not readable" in err) == (1, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-t", "mt_bench", "--judge-pairwise", "x"), "--judge-pairwise needs a judge"),
        (
            ("-t", "mt_bench", "--judge-pairwise", "x", "--part", "1/2"),
            "--part 1/2 answers a share of the requests, and --judge-pairwise judges whole runs",
        ),
        (("-t", "piqa", "--judge-pairwise", "x"), "and --tasks is piqa"),
        (("-t", "piqa", "--iterations", 2), "--tasks has piqa"),
    ],
)
def test_what_does_not_fit_is_said_at_once(cli, tmp_path, options, sentence):
    run = ("run", "--engine", "random", "--data", "sample", "-o", tmp_path, *options)
    code, _, err = cli(*run)
    assert (code, sentence in err) == (2, True)
    assert not list(tmp_path.iterdir())
