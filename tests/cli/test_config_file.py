"""`--config`: a file says what the command line leaves out, and a run.json repeats its run."""

import json
from pathlib import Path

import pytest

from mistral_eval.cli.run import run as command
from mistral_eval.console import Talk
from mistral_eval.settings import RunSettings

FULL = """
tasks: [nq, gsm8k]
model: tiny
engine: random
base_url: null
data: hub
limit: 3
revision: null
adapter: null
device: cpu
dtype: float32
batch-tokens: 64
seed: 7
num_fewshot: 2
model_args: {rope_theta: 10000.0, sliding_window: 64}
data_revision: {nq: v1, gsm8k: v2}
output-path: there
verify: 0
unsafe_code: false
sandbox: auto
data-unpinned: true
fresh: true
json: true
quiet: true
name: full
batch_size: 4
stream-layers: false
workers: null
apply_chat_template: false
chat_template: auto
fewshot_as_multiturn: null
system_instruction: null
system_prompt: null
judge_url: null
judge_model: null
judge_engine: null
refusal_judge: cues
judge_only: null
judge_pairwise: null
iterations: 1
part: null
no-compute: false
"""


@pytest.fixture
def asked(monkeypatch, cli):
    """Runs the command line up to its settings: (arguments) to RunSettings."""

    class EnoughError(Exception):
        pass

    def call(*arguments: object) -> RunSettings:
        found: list[RunSettings] = []

        def stop(settings: RunSettings, talk: Talk, shared: object = None) -> Path:
            found.append(settings)
            raise EnoughError

        monkeypatch.setattr("mistral_eval.run.several_models.run_suite", stop)
        with pytest.raises(EnoughError):
            cli("run", *arguments)
        return found[0]

    return call


def test_every_option_of_run_can_stand_in_a_file(asked, tmp_path):
    file = tmp_path / "full.yaml"
    file.write_text(FULL)
    arguments = (
        *("-t", "nq,gsm8k", "-m", "tiny", "--engine", "random", "--data", "hub"),
        *(
            "--data-revision",
            "nq=v1,gsm8k=v2",
            "-L",
            "3",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--batch-tokens",
            "64",
            "--seed",
        ),
        *("7", "-f", "2", "--model-args", "rope_theta=10000.0,sliding_window=64", "-o", "there"),
        *("--data-unpinned", "--fresh", "--json", "--quiet", "--name", "full", "--batch-size", "4"),
        "--no-stream-layers",
    )
    assert asked("--config", file) == asked(*arguments)
    named = {line.partition(":")[0].replace("-", "_") for line in FULL.strip().splitlines()}
    parameters = set(command.__annotations__) - {"return", "config"}
    assert named == {name.removeprefix("as_") for name in parameters}, "FULL lacks an option"


def test_the_command_line_wins_wherever_the_file_is_named(asked, tmp_path):
    file = tmp_path / "full.yaml"
    file.write_text(FULL.replace("data_revision", "# data_revision"))  # of tasks that are not run
    for arguments in (
        ("--seed", 1, "-t", "triviaqa", "--config", file),
        ("--config", file, "--seed", 1, "-t", "triviaqa"),
    ):
        settings = asked(*arguments)
        assert (settings.seed, settings.tasks, settings.limit) == (1, ("triviaqa",), 3)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.yaml", "task: mmlu", "unknown option 'task'. Did you mean tasks"),
        ("c.yaml", "batch_token: 3", "unknown option 'batch_token'. Did you mean batch_tokens"),
        ("c.yaml", "config: c.yaml", "unknown option 'config'"),
        ("c.yaml", "seed: one", "seed: expected a whole number, found 'one'"),
        ("c.yaml", "seed: true", "seed: expected a whole number, found True"),
        ("c.yaml", "seed: 1.5", "seed: expected a whole number, found 1.5"),
        ("c.yaml", "fresh: 'yes'", "fresh: expected true or false, found 'yes'"),
        ("c.yaml", "model: [[tiny]]", "model: expected text, found a list"),
        ("c.yaml", "engine: {a: 1}", "engine: unknown value {'a': 1}"),
        ("c.yaml", "data: yes", "data: expected text, found True"),
        ("c.yaml", "batch-tokens: 1\nbatch_tokens: 2", "'batch_tokens' is there twice"),
        (
            "c.yaml",
            "- mmlu",
            "expected a mapping of option names to values, like 'tasks: paper', found a list",
        ),
        ("c.yaml", "", "found nothing"),
        ("c.yaml", "a: [", "c.yaml is not YAML: "),
        ("c.json", "{", "c.json is not JSON: "),
        (
            "c.yaml",
            "tasks: mmlu\nengine: nativ",
            "engine: unknown value 'nativ'. Did you mean native",
        ),
        ("c.yaml", "tasks: [mmlu, gsm9k]", "Unknown task 'gsm9k'. Did you mean gsm8k"),
        (
            "c.yaml",
            "tasks: mmlu\nlimit: 0",
            "limit: expected a whole number of questions",
        ),
        ("c.yaml", "tasks: mmlu\njson: 3", "json: expected true or false, found 3"),
        ("c.yaml", "model_args: {a: [1]}", "model_args: expected text, found a list"),
        ("c.yaml", "seed: 1", "Missing option '--tasks'"),
        ("run.json", '{"format": 1, "settings": 3}', "found 3"),
        ("other.yaml", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_file_is_one_sentence(cli, tmp_path, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out, err = cli("run", "--config", tmp_path / name)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize("limit", ["3", "0.2"])
def test_a_run_json_given_back_is_the_same_run(cli, tmp_path, limit):
    """Found finished in its folder; and elsewhere run again, under the same id."""
    options = ("-t", "triviaqa,nq", "--engine", "random", "--data", "sample", "--seed", 5)
    assert cli("run", *options, "-L", limit, "-f", 1, "-o", tmp_path / "a", "-q")[0] == 0
    (file,) = tmp_path.rglob("run.json")
    before = file.read_bytes()
    code, _, err = cli("run", "--config", file)
    assert code == 0
    assert "This run is finished" in err
    assert file.read_bytes() == before
    assert cli("run", "--config", file, "-o", tmp_path / "b", "-q")[0] == 0
    (again,) = (tmp_path / "b").rglob("run.json")
    first, second = json.loads(before), json.loads(again.read_text())
    assert second["id"] == first["id"]
    assert second["scores"] == first["scores"]


def test_a_run_json_does_not_switch_isolation_off_or_start_again(asked, tmp_path):
    settings = RunSettings(tasks=("mbpp",), unsafe_code=True, fresh=True, seed=3)
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"format": 1, "settings": settings.as_json()}))
    found = asked("--config", file)
    assert (found.unsafe_code, found.fresh, found.seed) == (False, False, 3)
