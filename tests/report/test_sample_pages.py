"""`samples`: what was asked and answered, filtered, and harmless to a terminal."""

import json
import shutil
from pathlib import Path

import pytest

from mistral_eval.cli.samples import NOTHING
from mistral_eval.report.sample_pages import visible

HOSTILE = "\x1b[31mred\x07\r\x9b2J\u202eback\u2066 \ud800 ok\n\tnext"


@pytest.fixture
def run(sample_runs, tmp_path) -> Path:
    """Chance's run, in a folder that the test may change."""
    return Path(shutil.copytree(sample_runs["random"], tmp_path / "run"))


def listed(cli, *arguments: object) -> list[dict]:
    code, out, err = cli("samples", *arguments, "--json")
    assert (code, err) == (0, "")
    found: list[dict] = json.loads(out)
    return found


def rows(run: Path, task: str) -> list[dict]:
    (file,) = run.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def test_every_question_is_there_with_its_replies_and_verdict(cli, run):
    found = listed(cli, run)
    assert len(found) == 4 * 16
    for task in ("gsm8k", "mmlu"):
        kept = {row["doc_id"]: row for row in rows(run, task)}
        for question in (one for one in found if one["task"] == task):
            row = kept[question["id"]]
            assert question["outcome"] == row["verdict"]["outcome"]
            assert question["shots"] + question["prompt"] == row["arguments"]["gen_args_0"]["arg_0"]
            if task == "gsm8k":
                assert [reply["text"] for reply in question["replies"]] == row["resps"][0]
                assert len(question["replies"]) == 8
            else:
                assert [choice["text"] for choice in question["choices"]] == [
                    *(" A", " B", " C", " D")
                ]
                assert question["expected"] == "ABCD"[int(row["target"])]
    choices = [question for question in found if "choices" in question]
    assert {question["task"] for question in choices} > {"mmlu"}
    for question in choices:  # both are a choice's text, whatever the row's target is
        is_right = question["answer"] == question["expected"]
        assert is_right == (question["outcome"] == "correct")


def test_shots_are_folded_unless_they_are_asked_for(cli, run):
    _, folded, _ = cli("samples", run, "-t", "gsm8k", "--limit", 1)
    _, unfolded, _ = cli("samples", run, "-t", "gsm8k", "--limit", 1, "--shots")
    assert "There are 15 trees in the grove" not in folded
    assert "characters of solved examples" in folded
    assert folded.count("\nQ: ") == 1
    assert unfolded.count("Q: ") == 9
    assert unfolded.count("reply 7") == folded.count("reply 7") == 1


def test_control_characters_are_shown_and_not_obeyed(cli, run):
    (file,) = run.glob("samples_nq_*.jsonl")
    changed = rows(run, "nq")
    changed[0]["resps"] = [[HOSTILE]]
    changed[0]["verdict"]["answer"] = HOSTILE
    file.write_text("".join(json.dumps(row) + "\n" for row in changed))
    code, out, _ = cli("samples", run, "-t", "nq", "--limit", 1)
    assert code == 0
    assert r"\x1b[31mred\x07\x0d\x9b2J\u202eback\u2066 \ud800 ok" in out
    assert not set(out) & set("\x1b\x07\r\x9b\u202e\u2066\ud800")
    assert listed(cli, run, "-t", "nq", "--limit", 1)[0]["replies"][0]["text"] == HOSTILE


def test_text_of_other_scripts_stays_as_it_is():
    assert visible("Zürich 漢字 עברית 🙂\n\tx") == "Zürich 漢字 עברית 🙂\n\tx"


def test_nothing_found_is_said_on_stderr(cli, run):
    assert cli("samples", run, "--timeout") == (0, "", NOTHING)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("-t", "gsm9k"), 2, "The run has no benchmark 'gsm9k'. Did you mean gsm8k?"),
        (("--limit", "0"), 2, "--limit takes a whole number from 1 up; got 0."),
    ],
)
def test_wrong_usage_is_a_sentence(cli, run, arguments, code, sentence):
    assert cli("samples", run, *arguments) == (code, "", f"mistral-eval: {sentence}\n")


def test_a_folder_that_may_only_be_read_can_be_shown_and_tabled(cli, run):
    """Nothing is written beside the run, not even for a moment."""
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    for file in run.iterdir():
        file.chmod(0o444)
    run.chmod(0o555)
    try:
        assert cli("samples", run, "--limit", 1)[0] == 0
        assert cli("table", run, "--format", "md")[0] == 0
        assert {file.name: file.stat().st_mtime_ns for file in run.iterdir()} == before
    finally:
        run.chmod(0o755)
