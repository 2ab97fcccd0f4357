"""The commands as a user meets them: one thing on stdout, talk on stderr, files where asked."""

import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from mistral_eval.cli import app as app_module
from mistral_eval.cli.output import NEAREST, write_nearest
from mistral_eval.cli.plan import plan
from mistral_eval.cli.run import run
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.errors import nearest
from mistral_eval.run.diagnosis import Finding, render
from mistral_eval.sandbox import CHOICES
from mistral_eval.settings import ENGINES, RunSettings
from mistral_eval.suite.registry import BENCHMARKS, BY_ID

PROGRAM = "from mistral_eval.cli.app import main; main()"
SMALL = ("run", "--tasks", "winogrande,nq", "--data", "sample")
# the paper's Table 2, row by row in its order (arXiv 2310.06825v1)
TABLE_2 = {
    "LLaMA 2 7B": "44.4 77.1 69.5 77.9 68.7 43.2 24.7 63.8 11.6 26.1 3.9 16.0",
    "LLaMA 2 13B": "55.6 80.7 72.9 80.8 75.2 48.8 29.0 69.6 18.9 35.4 6.0 34.3",
    "Code-Llama 7B": "36.9 62.9 62.3 72.8 59.4 34.5 11.0 34.9 31.1 52.5 5.2 20.8",
    "Mistral 7B": "60.1 81.3 75.3 83.0 80.0 55.5 28.8 69.9 30.5 47.5 13.1 52.2",
}


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: nothing that is printed escapes the test."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_json_is_one_document_on_stdout_and_nothing_else(cli, tmp_path):
    """Of a first run with its talk, and of the same run found finished."""
    arguments = (*SMALL, "--model", "tiny", "-o", tmp_path, "--limit", 2, "--json")
    done = process(*arguments)
    assert done.returncode == 0, done.stderr
    assert "tiny into the native engine" in done.stderr
    assert "record is in" in done.stderr
    code, out, err = cli(*arguments)
    assert code == 0
    assert "is finished" in err
    assert json.loads(out) == json.loads(done.stdout)
    assert done.stdout[0] == "{"


def test_quiet_prints_the_table_alone(cli, tmp_path):
    code, out, err = cli(*SMALL, "--engine", "random", "-o", tmp_path, "--quiet")
    assert (code, err) == (0, "")
    assert "Mistral 7B" in out
    assert "WinoG" in out


def test_quiet_is_asked_of_the_hubs_library_too():
    program = (
        "import os\nfrom mistral_eval.cli.app import main\ntry: main()\n"
        "finally: print(os.environ.get('HF_HUB_VERBOSITY'))"
    )
    ours = {name: value for name, value in os.environ.items() if name not in app_module.QUIET_HUB}
    for quiet, expected in (("-q", "error"), ("--quiet", "error"), ("--fresh", "None")):
        command = [sys.executable, "-c", program, "run", "-t", "none", quiet]
        done = subprocess.run(
            command, capture_output=True, text=True, env=ours, check=False, timeout=300
        )
        assert done.stdout.split() == [expected]


def test_without_quiet_the_talk_goes_to_stderr(cli, tmp_path):
    code, out, err = cli(*SMALL, "--engine", "random", "-o", tmp_path)
    assert code == 0
    assert "WinoG: 16 questions" in err
    assert "WinoG: 16 questions" not in out
    assert str(tmp_path) in err.replace("\n", "")


def test_a_runs_json_has_each_cell_with_interval_and_n(cli, tmp_path):
    code, out, _ = cli(*SMALL, "--engine", "oracle", "-o", tmp_path, "--json")
    assert code == 0
    (row,) = [row for row in json.loads(out)["rows"] if "oracle" in row["name"]]
    cell = row["cells"]["winogrande"]
    assert (cell["value"], cell["n"]) == (100.0, 16)
    assert cell["low"] < cell["high"] == 100.0


@pytest.mark.parametrize("fmt", ["rich", "md", "latex", "csv", "html", "json"])
def test_every_format_of_the_table_has_every_digit_of_table_2(cli, monkeypatch, fmt):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = cli("table", "--format", fmt)
    assert (code, err) == (0, "")
    for label, numbers in TABLE_2.items():
        assert label in out
        for number in numbers.split():
            assert number in out or (fmt in ("json", "csv") and str(float(number)) in out)


def test_a_table_can_be_written_to_a_file(cli, tmp_path):
    code, out, _ = cli("table", "--format", "md", "-o", tmp_path / "t.md")
    assert (code, out) == (0, "")
    assert "| Mistral 7B " in (tmp_path / "t.md").read_text()
    code, _, err = cli("table", "-o", tmp_path / "t.txt")
    assert code == 2
    assert "--format" in err
    assert not (tmp_path / "t.txt").exists()


def test_a_finished_run_is_a_row_of_the_table(cli, tmp_path):
    cli(*SMALL, "--engine", "oracle", "-o", tmp_path, "--quiet")
    (folder,) = (tmp_path / "oracle").iterdir()
    code, out, _ = cli("table", folder, "--format", "md")
    assert code == 0
    (row,) = [line for line in out.splitlines() if "oracle" in line and line.startswith("|")]
    assert "100.0<br>" in row
    assert "N 16" in row
    assert (folder / "table.md").read_text() == out


def test_a_folder_without_a_run_is_no_row(cli, tmp_path):
    code, out, err = cli("table", tmp_path)
    assert (code, out) == (1, "")
    assert "run.json" in err


def test_tasks_lists_the_twelve(cli):
    code, out, err = cli("tasks")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for benchmark in BENCHMARKS:
        (line,) = [line for line in lines if line.split()[:1] == [benchmark.id]]
        assert f" {benchmark.n} {benchmark.shots} {benchmark.cell}" in " ".join(line.split())
        assert benchmark.column.split()[0] in line
    assert "…" not in out


@pytest.mark.parametrize("name", list(BY_ID))
def test_a_tasks_page_shows_its_protocol_and_its_first_prompt(cli, name):
    code, out, err = cli("tasks", name)
    assert (code, err) == (0, "")
    assert str(BY_ID[name].n) in out
    assert f"{name}.yaml" in out
    golden = (tasks_folder().parent / "tests" / "golden" / "prompts" / f"{name}.txt").read_text()
    first_context = golden.split("-" * 20 + "\n")[1]
    assert first_context in out


@pytest.mark.parametrize(
    ("given", "meant"), [("gsm8", "gsm8k"), ("GSM8K", "gsm8k"), ("MATH", "math")]
)
def test_an_unknown_task_page_offers_the_nearest(cli, given, meant):
    code, out, err = cli("tasks", given)
    assert (code, out) == (2, "")
    assert f"Did you mean {meant}?" in err


def test_a_stock_task_has_no_page_and_lm_eval_lists_it(cli):
    code, out, err = cli("tasks", "lm_eval:sciq")
    assert (code, out) == (2, "")
    assert "lm_eval:sciq is a stock task" in err
    assert "`lm-eval ls tasks`" in err


def test_tasks_path_is_the_folder_of_the_yaml_files(cli):
    code, out, _ = cli("tasks", "--path")
    assert code == 0
    assert out == f"{tasks_folder()}\n"
    assert (tasks_folder() / "mmlu.yaml").is_file()


def test_doctor_shows_what_its_json_says(cli):
    """In brackets too, which Rich would take for markup: pip install 'mistral-eval[vllm]'."""
    _, document, _ = cli("doctor", "--json")
    shown = io.StringIO()
    found = [Finding("vllm", ok=False, detail="`pip install 'mistral-eval[vllm]'`")]
    Console(file=shown, width=200).print(render(found))
    assert "'mistral-eval[vllm]'" in shown.getvalue()
    _, out, _ = cli("doctor")
    joined = "".join(out.split())
    for finding in json.loads(document):
        if finding["name"] not in ("memory", "disk", "sandbox"):  # they move
            assert "".join(finding["detail"].split()) in joined


def test_of_thousands_of_names_a_few_are_offered():
    known = [f"task_{n}" for n in range(5000)]
    sentence = nearest("zzz", known)
    assert sentence.startswith("The nearest of 5,000: task_")
    assert len(sentence) < 100
    assert nearest("task_123x", known).startswith("Did you mean task_123")
    assert nearest("zzz", known[:3]) == "Known: task_0, task_1, task_2."


def test_doctor_looks_at_what_a_run_needs(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    code, document, err = cli("doctor", "--json")
    assert (code, err) == (0, "")
    findings = {finding["name"]: finding for finding in json.loads(document)}
    assert findings.keys() >= {"versions", "device", "memory", "disk", "sandbox", "data sample"}
    assert findings["data sample"]["ok"] is True
    assert findings["model tiny"]["ok"] is True
    for name, finding in findings.items():
        assert name in out
        assert finding.keys() == {"name", "ok", "detail"}
        assert finding["detail"]


def test_version_and_help_answer(cli):
    assert cli("--version")[1].startswith("mistral-eval 0.")
    code, out, _ = cli("--help")
    assert code == 0
    for command in ("run", "table", "tasks", "doctor"):
        assert command in out


def test_lm_evals_spellings_are_understood(cli, tmp_path):
    code, out, err = cli(
        *("run", "-t", "nq", "--data", "sample", "--engine", "random", "--quiet"),
        *("--output_path", tmp_path, "--num_fewshot", 1, "-L", 3),
    )
    assert (code, err) == (0, "")
    assert "1-shot, not the paper's 5-shot" in " ".join(out.split())


def test_the_package_is_the_command_line_too():
    """`python -m mistral_eval` answers as `mistral-eval` does."""
    done = subprocess.run(
        [sys.executable, "-m", "mistral_eval", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("mistral-eval 0.")


def test_the_command_line_has_every_setting_with_its_default():
    options = inspect.signature(run).parameters
    for name, field in RunSettings.model_fields.items():
        if name in ("left_out", "choices", "iteration"):  # no options: a run's own
            continue
        default = field.get_default(call_default_factory=True)
        given = options[name].default
        if name == "model":  # a list, which several -m fill
            assert given is None
            assert inspect.signature(plan).parameters[name].default == default
        elif name == "output_path":  # text, since a path would spoil a URL
            assert Path(given) == default
        elif name != "tasks":
            assert (given or None) == (default or None), name
    for name, option in inspect.signature(plan).parameters.items():
        assert name in ("calibrate", "model") or option.default == options[name].default, name


@pytest.mark.parametrize("name", ["engine", "dtype", "sandbox"])
def test_the_help_names_every_choice(name):
    (option,) = get_args(inspect.signature(run).parameters[name].annotation)[1:]
    for choice in (
        ENGINES if name == "engine" else get_args(RunSettings.model_fields[name].annotation)
    ):
        assert choice in option.help


def test_settings_know_every_kind_of_isolation():
    assert get_args(RunSettings.model_fields["sandbox"].annotation) == CHOICES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("run -t mmlu", "stopped; the same command resumes the run."),
        ("sweep folder --fresh", "stopped; the same command without --fresh resumes the run."),
        ("run -t mmlu --fresh", "stopped; the same command without --fresh resumes the run."),
        ("table folder", "stopped."),
    ],
)
def test_what_ctrl_c_says_resumes_the_run(command, expected, monkeypatch, capsys):
    """Typer answers Ctrl-C with exit code 130; `--fresh` again would start another attempt."""
    monkeypatch.setattr(sys, "argv", ["mistral-eval", *command.split()])
    monkeypatch.setattr(app_module, "_set_waiting", lambda: None)  # the environment of all tests
    monkeypatch.setattr(app_module, "app", lambda **_: sys.exit(130))
    with pytest.raises(SystemExit):
        app_module.main()
    assert capsys.readouterr().err == f"mistral-eval: {expected}\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_an_encoding_that_lacks_characters_costs_no_command_its_exit_code(tmp_path, encoding):
    """Names and texts hold characters of three scripts; what is written to files is UTF-8."""
    results = tmp_path / "r\u00e9sultats-\u043c"
    folder = tmp_path / "\u4e2d-mod\u00e8le"
    folder.mkdir()
    run_it = ("run", "-t", "winogrande,triviaqa", "--data", "sample", "--engine", "random")
    commands = (
        (*run_it, "-m", folder, "-o", results),
        ("table", "RUN", "--format", "rich"),
        ("table", "RUN", "--format", "md"),
        ("samples", "RUN", "-t", "triviaqa"),
        ("table", folder),
    )
    for command in commands:
        arguments = [next(results.glob("*/*")) if part == "RUN" else part for part in command]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            capture_output=True,
            check=False,
            timeout=300,
            env=environment,
        )
        wanted = int(command == ("table", folder))
        assert done.returncode == wanted, done.stderr.decode(encoding)
        text = (done.stdout + done.stderr).decode(encoding)
        assert "Traceback" not in text
    assert ("\u4e2d" in text) == (encoding == "utf-8")
    assert ("\\u4e2d-mod" in text) == (encoding != "utf-8")


@pytest.mark.parametrize(
    ("character", "ascii_text"),
    [
        ("\u2013", "-"),
        ("\u2026", "..."),
        ("\u00b1", "+/-"),
        ("\u00e9", "e"),
        ("\ufb01", "fi"),
        ("\u4e2d", "\\u4e2d"),
        ("\U0001f600", "\\U0001f600"),
    ],
)
def test_the_nearest_characters_are_written(character, ascii_text):
    write_nearest()
    assert f"<{character}>".encode("ascii", NEAREST) == f"<{ascii_text}>".encode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("command", [("table",), ("table", "--format", "json"), ("--help",)])
def test_a_full_disk_behind_the_output_is_one_sentence(command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            timeout=300,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("mistral-eval: the output could not be written: no space is left")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_has_closed_costs_no_run_its_exit_code(closed, tmp_path):
    """Nor does what a library prints go into the run's files, one of which took its number."""
    noisy = (
        "import os; from mistral_eval.cli import app; from mistral_eval.run import run\n"
        "write = run.write_run\n"
        "def noisy(*given): os.write(1, b'noise'); write(*given); os.write(1, b'noise')\n"
        "run.write_run = noisy; app.main()"
    )
    command = ["run", "-t", "nq", "-m", "tiny", "--data", "sample", "-L", "1", "-o", str(tmp_path)]
    for code, arguments in ((PROGRAM, ["table"]), (noisy, command)):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code, *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [file for file in tmp_path.rglob("*.*") if b"noise" in file.read_bytes()] == []
    (run,) = tmp_path.rglob("run.json")
    assert json.loads(run.read_text())["status"] == "finished"


@pytest.mark.parametrize("columns", ["0", "", "00"])
def test_a_terminal_without_a_size_hides_no_table(columns):
    """Some terminals and containers set COLUMNS to 0."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "table"],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "COLUMNS": columns, "LINES": columns},
    )
    assert "Mistral" in done.stdout


@pytest.mark.parametrize(
    ("load", "threads", "policy", "spins"),
    [
        ("0.00 0.01 0.05 1/200 999\n", "", None, True),  # this process alone
        ("0.00 0.01 0.05 2/200 999\n", "", None, False),
        ("9.00 9.00 9.00 2/200 999\n", "1", None, True),  # a core is left
        ("0.00 0.01 0.05 3/200 999\n", "1", None, False),
        ("0.00 0.01 0.05 1/200 999\n", "", "PASSIVE", False),  # as the user says
        ("nothing of the kind\n", "", None, False),
        (None, "", None, False),
    ],
)
def test_threads_spin_for_a_moment_if_each_has_an_idle_core(
    load, threads, policy, spins, monkeypatch, tmp_path
):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(app_module, "LOAD_FILE", tmp_path / "loadavg")
    monkeypatch.setattr(app_module.os, "cpu_count", lambda: 2)
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    app_module._set_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert ("GOMP_SPINCOUNT" in os.environ) == spins


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_wait_without_spinning_unless_told_otherwise(given, monkeypatch):
    """The setting is read when torch is loaded, so it is made before any command runs."""
    program = (
        "import os, sys; from mistral_eval.cli.app import main; assert 'torch' not in sys.modules\n"
        "try: main()\nfinally: print(os.environ['OMP_WAIT_POLICY'])"
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split()[-1] == (given or "PASSIVE")
