"""The whole real test sets: an engine that knows the gold, one that avoids it, and chance."""

import json
from math import sqrt
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.run.absent import leave_out_absent
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID, SUITES, only_in_suites, parse_tasks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHOICES = tuple(name for name in SUITES["figure4"] if BY_ID[name].kind == "score")
QUESTIONS = {  # without QuAC, whose rows are not to be had
    "mmlu": 14042,
    "hellaswag": 10042,
    "winogrande": 1267,
    "piqa": 1838,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "nq": 3610,
    "triviaqa": 11313,
    "humaneval": 164,
    "mbpp": 257,
    "math": 5000,
    "gsm8k": 1319,
    "siqa": 1954,
    "openbookqa": 500,
    "commonsense_qa": 1221,
    "boolq": 3270,
    "bbh": 6511,
    "agieval": 2546,
}


def scores(tasks: str, engine: str, shared: Path, output: Path) -> dict[str, dict]:
    """Run what `--tasks` names and the folder holds."""
    data = str(shared / "data")
    asked = RunSettings(tasks=parse_tasks(tasks), engine=engine, data=data, output_path=output)
    folder = run_suite(leave_out_absent(asked, only_in_suites(tasks)), Talk(quiet=True))
    found: dict[str, dict] = json.loads((folder / "run.json").read_text())["scores"]
    return found


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox")
def test_the_oracle_reaches_100_on_every_whole_benchmark(shared, tmp_path):
    """NQ may lose a question whose gold answers are no answer."""
    cells = scores("figure4", "oracle", shared, tmp_path)
    assert {name: cell["n"] for name, cell in cells.items()} == QUESTIONS
    assert cells.pop("nq")["value"] >= 99.9
    assert {name: cell["value"] for name, cell in cells.items()} == dict.fromkeys(cells, 100.0)
    assert not any(cell["limited"] for cell in cells.values())


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox")
def test_an_oracle_that_avoids_the_gold_reaches_0_on_every_whole_benchmark(shared, tmp_path):
    cells = scores("figure4", "oracle-wrong", shared, tmp_path)
    assert {name: cell["n"] for name, cell in cells.items()} == QUESTIONS
    assert {name: cell["value"] for name, cell in cells.items()} == dict.fromkeys(QUESTIONS, 0.0)


def test_chance_is_within_its_interval_on_every_multiple_choice_benchmark(shared, tmp_path):
    """A question of n choices is guessed with 1/n; the interval is binomial, 95 %."""
    cells = scores(",".join(CHOICES), "random", shared, tmp_path)
    asking = Asking(make_source(str(shared / "data")), None, None, unpinned=False)
    for loaded in load_benchmarks(CHOICES, asking):
        golds = [loaded.benchmark.gold(question.doc) for question in loaded.questions]
        guesses = [1 / len(gold.texts) for gold in golds]
        mean = sum(guesses) / len(guesses)
        half = 1.96 * sqrt(sum(p * (1 - p) for p in guesses)) / len(guesses)
        cell = cells[loaded.benchmark.id]
        assert abs(cell["value"] / 100 - mean) < half, (loaded.benchmark.id, mean, half)
