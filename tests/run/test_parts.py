"""Parts of a run: separate processes that share one replies log, and the merge that judges it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.interface import Encoded, EngineIdentity, Request, TextEncoder
from mistral_eval.engines.keys import reply_key
from mistral_eval.errors import RepliesError, UsageError
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.parts import Part
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings

PROGRAM = "from mistral_eval.cli.app import main; main()"
OPTIONS = ("run", "-t", "mmlu,gsm8k", "-m", "tiny", "--data", "sample", "-L", "6", "--quiet")
REPLIES = 6 * 4 + 6 * 8
PARTS = 4
NATS = 1e-5
QUIET = Talk(quiet=True)


def settings_in(folder: Path, **changed) -> RunSettings:
    """A run that needs no model, with choices, samples and conversations of two turns."""
    fields = {"tasks": ("mmlu", "nq", "gsm8k", "mt_bench"), "engine": "random", "data": "sample"}
    return RunSettings(**{**fields, "limit": 5, "output_path": folder, **changed})


def lines_of(output: Path) -> list[dict]:
    """Every reply that is durable, duplicates included."""
    logs = [file.read_bytes() for file in sorted(output.rglob("replies/*.jsonl"))]
    return [json.loads(line) for log in logs for line in log.split(b"\n")[:-1]]


def keys_of(output: Path) -> list[str]:
    return [line["key"] for line in lines_of(output)]


def run_json(output: Path) -> dict:
    (file,) = output.rglob("run.json")
    return json.loads(file.read_text())


def samples_of(output: Path) -> dict[str, list[dict]]:
    return {
        file.name.rpartition("_")[0]: [json.loads(line) for line in file.open()]
        for file in output.rglob("samples_*.jsonl")
    }


def in_parts(folder: Path, count: int, **changed) -> Path:
    """Run all parts one after the other, and merge them."""
    for number in range(1, count + 1):
        run_suite(settings_in(folder, part=f"{number}/{count}", **changed), QUIET)
    return run_suite(settings_in(folder, no_compute=True, **changed), QUIET)


# How requests are divided


def encoded_requests(tasks: tuple[str, ...], *, is_native: bool) -> list[Encoded]:
    """Requests of the bundled questions, encoded as texts or as made-up token ids."""
    asking = Asking(make_source("sample"), 6, None, unpinned=False)
    encoder = TextEncoder(0, EngineIdentity("random"))
    found = []
    for loaded in load_benchmarks(tasks, asking):
        for request in loaded.requests:
            one = encoder.encode(request)
            ids = tuple(request.text.encode())
            work = (
                ScoreRequest(ids, tuple(request.continuation.encode()))
                if request.kind == "score"
                else GenerateRequest(ids, 16)
            )
            found.append(Encoded(request, one.parts, work if is_native else None))
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["token ids", "texts"])
def kinds(request):
    """The requests of each kind with their keys, as the engine is given them."""
    identity = EngineIdentity("random")
    found = []
    for tasks in (("mmlu", "hellaswag"), ("gsm8k", "nq", "humaneval")):
        encoded = encoded_requests(tasks, is_native=request.param)
        found.append(([reply_key(identity, one) for one in encoded], encoded))
    return found


@pytest.mark.parametrize("count", [1, 2, 4, 7, 50])
def test_every_request_is_in_one_part_with_the_samples_of_its_question(kinds, count):
    for keys, encoded in kinds:
        chosen = [Part(number, count).chosen(keys, encoded) for number in range(1, count + 1)]

        assert sorted(index for part in chosen for index in part) == list(range(len(keys)))
        if encoded[0].request.kind == "generate":
            owners: dict[tuple[str, int], set[int]] = {}
            for number, part in enumerate(chosen):
                for index in part:
                    request = encoded[index].request
                    owners.setdefault((request.benchmark, request.doc_id), set()).add(number)
            assert {len(numbers) for numbers in owners.values()} == {1}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 6))
def test_equal_requests_are_in_one_part(names, count):
    """A request that two benchmarks share is computed once, by one part."""
    encoded = [
        Encoded(Request("b", place, 0, 0, "score", str(name), " x"), (str(name),))
        for place, name in enumerate(names)
    ]
    keys = [reply_key(EngineIdentity("random"), one) for one in encoded]
    owners: dict[int, set[int]] = {}
    for number in range(1, count + 1):
        for index in Part(number, count).chosen(keys, encoded):
            owners.setdefault(names[index], set()).add(number)
    assert owners.keys() == set(names)
    assert {len(numbers) for numbers in owners.values()} == {1}


# Parts in a row


@pytest.mark.parametrize("count", [1, 3, 8])
def test_merged_parts_end_as_one_process(tmp_path, count):
    one = run_suite(settings_in(tmp_path / "one"), QUIET)
    merged = in_parts(tmp_path / "parts", count)

    assert merged.name == one.name  # the part is not in the run's id
    assert run_json(merged)["scores"] == run_json(one)["scores"]
    assert samples_of(merged) == samples_of(one)
    assert sorted(keys_of(merged)) == sorted(keys_of(one))  # each reply is there once
    counts, expected = run_json(merged)["counts"], run_json(one)["counts"]
    assert (counts["computed"], counts["from_log"]) == (expected["computed"], 0)
    assert run_json(merged)["identity"] == run_json(one)["identity"]
    assert run_json(merged)["notes"] == run_json(one)["notes"]
    rescore(merged, QUIET, unsafe_code=False)
    assert run_json(merged)["scores"] == run_json(one)["scores"]


def test_a_part_ends_before_judging_and_names_the_command_that_merges(tmp_path, cli):
    options = ("run", "-t", "mmlu", "--engine", "random", "--data", "sample", "-o", tmp_path)
    code, out, err = cli(*options, "--part", "2/3")

    assert (code, out) == (0, "")
    (log,) = tmp_path.rglob("replies/*.jsonl")
    assert log.name.endswith("-part2of3-attempt1.jsonl")
    folder = log.parents[1]
    assert err.strip().endswith(
        f"Part 2 of 3 is done: {len(keys_of(tmp_path))} replies were computed and 0 known; they "
        f"are in {folder}. When all parts are done, the same command with --no-compute in place of "
        "--part 2/3 judges them and prints the table."
    )
    assert not list(tmp_path.rglob("run.json"))
    for number in (1, 3):
        assert cli(*options, "--part", f"{number}/3", "--quiet") == (0, "", "")
    code, out, _ = cli(*options, "--no-compute", "--json")
    assert code == 0
    assert json.loads(out)
    assert run_json(tmp_path)["status"] == "finished"
    code, out, err = cli(*options, "--part", "1/3")  # one that was requeued after the merge
    assert (code, out) == (0, "")
    assert "This run is finished" in err


def test_the_attempt_is_slurms_restart_count(tmp_path, monkeypatch):
    for restarts, attempt in ((None, 1), ("0", 1), ("1", 2), ("12", 13)):
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        if restarts is not None:
            monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        part = Part.of(settings_in(tmp_path, part="3/4"))
        assert part == Part(3, 4, attempt)
        assert part.name == f"part3of4-attempt{attempt}"


def test_parts_on_machines_that_share_only_a_store_are_merged_on_another(tmp_path, monkeypatch):
    one = run_suite(settings_in(tmp_path / "one"), QUIET)
    store = f"file://{tmp_path}/store"
    for part in ("1/2", "2/2", None):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {part}"[:-2]))
        merged = run_suite(
            settings_in(tmp_path, output_path=store, part=part, no_compute=part is None), QUIET
        )
    assert (tmp_path / "store" / "random" / merged.name / "run.json").is_file()
    assert run_json(merged)["scores"] == run_json(one)["scores"]
    assert sorted(keys_of(merged)) == sorted(keys_of(one))


# What is missing


def test_a_merge_names_what_is_missing_and_computes_nothing(tmp_path, cli):
    options = ("run", "-t", "mmlu,nq", "--engine", "random", "--data", "sample", "-L", "8")
    options = (*options, "--quiet", "-o", tmp_path)
    code, _, err = cli(*options, "--no-compute")
    assert code == 1
    assert "no part of the run in" in err
    assert not list(tmp_path.iterdir())  # a merge that comes first leaves nothing

    assert cli(*options, "--part", "1/3")[0] == 0
    assert cli(*options, "--part", "3/3")[0] == 0
    (record,) = tmp_path.rglob("part3of3-attempt1.json")
    begun = json.loads(record.read_text()) | {"status": "started", "counts": None}
    record.write_text(json.dumps(begun))
    before = keys_of(tmp_path)
    code, out, err = cli(*options, "--no-compute")

    missing = 8 * 4 + 8 - len(before)
    assert (code, out) == (1, "")
    assert missing > 0
    assert f"Expected 40 replies in {record.parents[1] / 'replies'}, and {missing} of them" in err
    assert "State of the parts: part 3 of 3 not finished; part 2 of 3 not begun." in err
    counted = dict(part.split() for part in err.partition("missing: ")[2].split(".")[0].split(", "))
    assert sum(map(int, counted.values())) == missing
    assert counted.keys() <= {"mmlu", "nq"}
    assert keys_of(tmp_path) == before

    assert cli(*options)[0] == 0  # without --no-compute, the same command computes the rest
    assert run_json(tmp_path)["counts"]["computed"] == missing
    assert len(set(keys_of(tmp_path))) == len(keys_of(tmp_path)) == 40


def test_a_merge_prefers_the_engine_that_answered_most(tmp_path):
    """A first attempt on other machines does not spoil a run that was then done in full."""
    merged = in_parts(tmp_path, 2)
    record = merged / "parts" / "part1of2-attempt1.json"
    fields = json.loads(record.read_text())
    fields["identity"]["version"] = "another"
    later = fields | {"attempt": 2, "date": "2099-01-01T00:00:00+00:00"}
    (merged / "parts" / "part1of2-attempt2.json").write_text(json.dumps(later))
    scores = run_json(merged)["scores"]
    (merged / "run.json").unlink()
    assert run_json(run_suite(settings_in(tmp_path, no_compute=True), QUIET))["scores"] == scores

    (merged / "run.json").unlink()
    for log in sorted(merged.glob("replies/*"))[:1]:
        log.unlink()
    with pytest.raises(RepliesError, match="different engines or models"):
        run_suite(settings_in(tmp_path, no_compute=True), QUIET)


def test_a_part_record_that_cannot_be_read_is_named(tmp_path):
    merged = in_parts(tmp_path, 2)
    (merged / "run.json").unlink()
    (merged / "parts" / "part2of2-attempt1.json").write_text("{}")
    with pytest.raises(Exception, match=r"part2of2-attempt1\.json should be the record of a part"):
        run_suite(settings_in(tmp_path, no_compute=True), QUIET)


# Who may work beside whom


def test_parts_work_beside_each_other_and_a_part_once(tmp_path):
    with RepliesLog(tmp_path, "part1of4-attempt1"):
        with RepliesLog(tmp_path, "part2of4-attempt1"), RepliesLog(tmp_path, "merge"):
            pass
        with RepliesLog(tmp_path, "part1of4-attempt2"):  # Slurm began it; the first may be lost
            pass
        with pytest.raises(RepliesError, match="working as part1of4-attempt1 on the run in"):
            RepliesLog(tmp_path, "part1of4-attempt1")
        with pytest.raises(RepliesError, match="Other processes are working on parts of the run"):
            RepliesLog(tmp_path)
    with RepliesLog(tmp_path):
        with pytest.raises(RepliesError, match="Another process is working on the whole run"):
            RepliesLog(tmp_path, "part1of4-attempt1")
        with pytest.raises(RepliesError, match="Another process is working on the run in"):
            RepliesLog(tmp_path)
    with RepliesLog(tmp_path, "part1of4-attempt1"):
        pass


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"part": "5/4"}, "--part: expected a part and the number of parts, like 2/4, found '5/4'"),
        ({"part": "0/4"}, "like 2/4, found '0/4'"),
        ({"part": "2"}, "like 2/4, found '2'"),
        ({"part": "2/4", "no_compute": True}, "--part computes replies, and --no-compute refuses"),
        ({"part": "2/4", "fresh": True}, "--fresh starts another folder, and --part 2/4 shares"),
        ({"no_compute": True, "fresh": True}, "--fresh starts another folder, and --no-compute"),
        ({"part": "2/4", "verify": 3}, "--verify needs the whole run"),
        ({"part": "2/4", "tasks": ("lm_eval:arc_easy",)}, "--part 2/4 divides our own benchmarks"),
    ],
)
def test_what_parts_cannot_do_is_refused_in_a_sentence(tmp_path, changed, sentence):
    with pytest.raises(UsageError) as caught:
        settings_in(tmp_path, **changed)
    assert sentence in str(caught.value)


# Real processes


def start(output: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *OPTIONS, "-o", str(output), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_four_processes_one_of_them_killed_end_as_one(tmp_path):
    parts, one = tmp_path / "parts", tmp_path / "one"
    slowly = ("--batch-tokens", "8")  # a kill falls between two replies
    started = [
        start(parts, "--part", f"{n}/{PARTS}", *(slowly if n == 3 else ()))
        for n in range(1, PARTS + 1)
    ]
    killed, others = started[2], [*started[:2], started[3]]
    while killed.poll() is None:  # killed among its samples, after some of them are durable
        (log,) = list(parts.rglob("replies/*-part3of4-attempt1.jsonl")) or [None]
        if log and log.read_bytes().count(b"\n") > 8:
            break
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    (log,) = parts.rglob("replies/*-part3of4-attempt1.jsonl")
    durable = {json.loads(line)["key"] for line in log.read_bytes().split(b"\n")[:-1]}
    assert len(durable) > 8
    again = start(parts, "--part", f"3/{PARTS}")
    for process in (*others, again):
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err

    merge = start(parts, "--no-compute")
    assert merge.communicate(timeout=500)[1] == ""
    whole = start(one)
    assert whole.communicate(timeout=500)[1] == ""
    found, expected = run_json(parts), run_json(one)
    assert found["counts"]["computed"] + found["counts"]["from_log"] == REPLIES
    assert found["counts"]["from_log"] == len(durable)
    assert len(list(parts.rglob("replies/*.jsonl"))) == PARTS + 1
    assert max(Counter(keys_of(parts)).values()) == 1  # nothing durable was computed again
    assert len(keys_of(parts)) == REPLIES
    assert_same(parts, one)
    assert found["scores"] == expected["scores"]
    assert found["counts"]["reply_tokens"] == expected["counts"]["reply_tokens"]


def assert_same(output: Path, other: Path) -> None:
    """Texts, token ids and greediness are equal; log-likelihoods to 1e-5."""
    found = {line["key"]: line["reply"] for line in lines_of(output)}
    expected = {line["key"]: line["reply"] for line in lines_of(other)}
    assert found.keys() == expected.keys()
    for key, reply in found.items():
        logprob, other_logprob = reply.pop("logprob", 0.0), expected[key].pop("logprob", 0.0)
        assert math.isclose(logprob, other_logprob, abs_tol=NATS)
        assert reply == expected[key]
