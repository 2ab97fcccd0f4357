"""What one run was answered, another run of the same model need not ask again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mistral_eval.console import Talk
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings


class Heard(Talk):
    """A voice that is kept."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def talk() -> Heard:
    return Heard()


@pytest.fixture
def start(tmp_path, talk):
    """Run in the test's own folder: (tasks, **settings) to the run's folder."""

    def call(*tasks: str, **settings: Any) -> Path:
        chosen = {"engine": "random", "data": "sample", **settings}
        return run_suite(RunSettings(tasks=tasks, output_path=tmp_path, **chosen), talk)

    return call


def counts(folder: Path) -> tuple[int, int, int]:
    """Computed, from the run's own log, from other runs."""
    found = json.loads((folder / "run.json").read_text())["counts"]
    return found["computed"], found["from_log"], found["from_other_runs"]


def scores(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["scores"]


def test_some_questions_and_then_all_asks_only_the_others(start, tmp_path):
    """And the log of the whole has everything: the smaller run may be deleted."""
    assert counts(start("gsm8k", "winogrande", limit=4)) == (4 * 8 + 4 * 2, 0, 0)
    whole = start("gsm8k", "winogrande")
    assert counts(whole) == (12 * 8 + 12 * 2, 0, 4 * 8 + 4 * 2)
    with RepliesLog(whole) as log:
        assert log.count() == 16 * 8 + 16 * 2
    apart = run_suite(
        RunSettings(
            tasks=("winogrande", "gsm8k"),
            engine="random",
            data="sample",
            output_path=tmp_path / "b",
        ),
        Talk(quiet=True),
    )
    assert scores(whole)["gsm8k"] == scores(apart)["gsm8k"]


def test_one_benchmark_and_then_two_asks_only_the_second(start):
    start("winogrande", engine="native", model="tiny", limit=2)
    assert counts(start("winogrande", "piqa", engine="native", model="tiny", limit=2)) == (4, 0, 4)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"engine": "hf"},
    ],
    ids=str,
)
def test_runs_that_differ_in_what_a_reply_depends_on_share_none(start, other):
    same = {"engine": "native", "model": "tiny", "limit": 2}
    start("winogrande", **same)
    computed, from_log, from_others = counts(start("winogrande", **{**same, **other}))
    assert (computed, from_log, from_others) == (4, 0, 0)


def test_two_models_of_one_name_share_none(start, tmp_path):
    from mistral_eval.model.export import save_hf
    from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

    for seed in (0, 1):
        model = tmp_path / str(seed) / "model"
        save_hf(make_tiny(seed=seed), model, tokenizer_file=tiny_tokenizer_file())
        run = start("winogrande", engine="native", model=str(model), limit=2)
        assert run.parent == tmp_path / "model"
        assert counts(run) == (4, 0, 0)


def test_a_fresh_attempt_takes_no_reply_from_an_earlier_run(start):
    start("winogrande", limit=4)
    assert counts(start("winogrande", limit=2, fresh=True)) == (4, 0, 0)
    start("winogrande", limit=4, fresh=True)
    assert counts(start("winogrande", limit=4)) == (8, 0, 0)
    assert counts(start("winogrande")) == (24, 0, 8)


def test_what_a_run_in_use_has_written_is_taken_and_no_lock_is_needed(start, talk):
    small = start("winogrande", limit=4)
    with RepliesLog(small):
        assert counts(start("winogrande", limit=8)) == (8, 0, 8)
    assert not [line for line in talk.lines if "replies" in line]


@pytest.mark.parametrize("damage", ["noise", "cut", "old"])
def test_a_damaged_or_old_neighbour_costs_its_damage_and_stays_as_it_is(start, talk, damage):
    """It is told of once, though it is asked for scores and again for texts."""
    log = next((start("winogrande", limit=4) / "replies").iterdir())
    lost, sentence = 8, "1 file holds no readable reply"
    if damage == "noise":
        log.write_bytes(b"noise" * 4000)
    elif damage == "cut":
        log.write_bytes(log.read_bytes()[:-30])
        lost, sentence = 1, "1 damaged line was skipped"
    else:
        log.unlink()
        log.parent.rmdir()
        log = log.parent.with_name("journal.sqlite")
        log.write_bytes(b"SQLite format 3")
        sentence = "are not reused: they are in journal.sqlite"
    before = log.read_bytes()
    assert counts(start("winogrande", "nq")) == (24 + lost + 16, 0, 8 - lost)
    assert len([line for line in talk.lines if sentence in line]) == 1
    assert log.read_bytes() == before


@pytest.mark.slow
def test_two_models_dtypes_seeds_and_sampling_settings_in_one_folder_never_share_a_reply(
    start, tmp_path, monkeypatch
):
    """Eight samples of a question are eight draws in each of these runs; no key comes twice."""
    from mistral_eval.model.export import save_hf
    from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

    other = save_hf(
        make_tiny(seed=1), tmp_path / "m" / "tiny", tokenizer_file=tiny_tokenizer_file()
    )
    same: dict[str, Any] = {"engine": "native", "model": "tiny", "limit": 1}
    runs = [
        start("gsm8k", **{**same, **settings})
        for settings in ({}, {"model": str(other)}, {"dtype": "bfloat16"}, {"seed": 1})
    ]
    package = tmp_path / "package"
    shutil.copytree(tasks_folder(), package / "_tasks")
    monkeypatch.setattr("mistral_eval.data.task_file.PACKAGE", package)
    protocol = package / "_tasks" / "gsm8k.yaml"
    written = protocol.read_text()
    for was, now in (("temperature: 0.6", "temperature: 0.7"), ("top_p: 0.95", "top_p: 0.5")):
        assert was in written
        protocol.write_text(written.replace(was, now))
        runs.append(start("gsm8k", **same))
    assert len({run.parent for run in runs}) == 1
    assert [counts(run) for run in runs] == [(8, 0, 0)] * 6
    keys: list[str] = []
    for run in runs:
        (samples,) = run.glob("samples_gsm8k_*.jsonl")
        (row,) = map(json.loads, samples.read_text().splitlines())
        assert len(set(row["resps"][0])) >= 7  # two short draws of a narrow top-p may agree
        (log,) = run.glob("replies/*")
        keys += [json.loads(line)["key"] for line in log.open()]
    assert len(set(keys)) == len(keys) == 8 * 6
