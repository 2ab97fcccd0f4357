"""run.json: what is written is read back as it was, and a damaged file names its field."""

import json
from pathlib import Path

import pytest

from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record, read_run

STORED = Path(__file__).parents[2] / "results" / "ci" / "tiny"


def test_a_run_is_read_as_it_was_written(sample_runs):
    for folder in sample_runs.values():
        written = (folder / RUN_FILE).read_text()
        assert json.dumps(read_run(folder), indent=2, ensure_ascii=False) + "\n" == written


def test_an_older_file_of_the_same_format_is_read(tmp_path):
    """One that was stored before three settings and four fields existed, and counted a journal."""
    written = json.loads((STORED / RUN_FILE).read_text())
    for name in ("identity", "speed", "verify", "seconds_by_task"):
        del written[name]
    for name in ("verify", "sandbox", "data_revision"):
        del written["settings"][name]
    written["counts"]["from_journal"] = written["counts"].pop("from_log")
    (tmp_path / RUN_FILE).write_text(json.dumps(written))
    record = read_record(tmp_path)
    assert record.settings.verify == 0
    assert record.speed is None
    assert record.counts.from_log == 0
    left_out = {"settings": 0, "counts": 0}
    for score in written["scores"].values():
        score.setdefault("asked_as", "")
        score.setdefault("judged_by", "")
    assert record.as_json() | left_out == written | left_out
    assert written["settings"].items() <= record.as_json()["settings"].items()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"counts": {}}, r"run\.json: counts\.computed: expected a value, found no such field\."),
        ({"seconds": {"build": "long"}}, r"run\.json: seconds\.build: expected a number, found 'l"),
        ({"protocol": {}}, r"run\.json: protocol: expected an entry for \w+, found none\."),
        ({"machine": 3}, r"run\.json: machine: expected a mapping, found 3\."),
        ({"surplus": 3}, r"run\.json: surplus: unknown field\."),
        ({"notes": "one"}, r"run\.json: notes: expected a list, found 'one'\."),
        ({"settings": {"tasks": [], "seed": 0.5}}, r"settings: --seed: expected a whole number"),
    ],
)
def test_a_damaged_file_names_its_field(tmp_path, change, sentence):
    damaged = json.loads((STORED / RUN_FILE).read_text()) | change
    (tmp_path / RUN_FILE).write_text(json.dumps(damaged))
    with pytest.raises(
        OutputError, match=rf"{sentence}.* Delete run\.json and run the command again"
    ):
        read_record(tmp_path)
