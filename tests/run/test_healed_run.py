"""A run whose prompts are healed: its note, its log and its second look at the replies."""

import json
from pathlib import Path

from mistral_eval.engines.native_encoder import HEALED
from tests.byte_level import save_model


def test_a_healed_run_is_noted_once_and_is_verified_resumed_and_rescored(cli, tmp_path):
    """Two benchmarks whose prompts end with a line break, and one whose prompts do not."""
    model = save_model(tmp_path / "joining")
    asked = ("run", "-t", "humaneval,mbpp,nq", "-m", model, "--data", "sample", "-L", "2",
             "-o", tmp_path / "results")  # fmt: skip
    code, out, _ = cli(*asked, "--verify", "6")
    assert code == 0
    assert " ".join(out.split()).count(f"HumanEval, MBPP: {HEALED}") == 1
    (record,) = (tmp_path / "results").rglob("run.json")
    run = json.loads(record.read_text())
    assert run["counts"]["computed"] == 6
    assert sum(run["verify"]["requests"].values()) == 6

    replies = logged(record.parent)
    record.unlink()  # as after a kill
    assert cli(*asked)[0] == 0
    again = json.loads(record.read_text())
    assert again["counts"]["computed"] == 0
    assert again["scores"] == run["scores"]
    assert again["notes"] == run["notes"]
    assert cli("rescore", record.parent)[0] == 0
    assert json.loads(record.read_text())["notes"] == run["notes"]
    assert logged(record.parent) == replies


def logged(folder: Path) -> list[str]:
    return sorted(
        line for file in (folder / "replies").iterdir() for line in file.read_text().splitlines()
    )
