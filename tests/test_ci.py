"""Continuous integration: the workflows' own commands, run here as GitHub would run them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mistral_eval.data.task_file import tasks_folder
from mistral_eval.record.run_folder import RUN_FILE, text_hash

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name: str) -> dict:
    file = ROOT / ".github" / "workflows" / name
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job() -> dict:
    return read("eval.yml")["jobs"]["eval"]


class Runner:
    """Runs a job's steps in this checkout, with the parts of GitHub that they use."""

    def __init__(self, job, folder: Path, **env: object):
        self.steps = {step["name"]: step for step in job["steps"] if "run" in step}
        self.summary, self.output = folder / "summary.md", folder / "output"
        self.output.touch()
        self.runs = folder / "runs"
        self.env = {
            **os.environ,
            **job["env"],
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RUNS": str(self.runs),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
            **{name: str(value) for name, value in env.items()},
        }

    def step(self, name: str) -> int:
        """Run a step; its exit code."""
        step = self.steps[name]
        own = step.get("env", {}).items()
        own = {key: re.sub(r"\$\{\{.*?\}\}", self._value, value) for key, value in own}
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(shell, cwd=ROOT, env={**self.env, **own}, check=False).returncode

    def _value(self, expression: re.Match[str]) -> str:
        assert expression[0] == "${{ steps.run.outputs.folder }}"
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())["folder"]


@pytest.mark.slow
def test_the_workflow_s_steps_pass_on_an_unchanged_model_and_fail_on_a_worse_one(job, tmp_path):
    same = Runner(job, tmp_path)
    assert [same.step(name) for name in ("Run", "Table", "Report", "Gate")] == [0, 0, 0, 0]
    summary = same.summary.read_text()
    assert "Mistral 7B" in summary
    assert "Passed: on no benchmark is" in summary
    assert (same.runs / "report.html").stat().st_size > 50_000

    better = shutil.copytree(ROOT / job["env"]["STORED"], tmp_path / "better")
    for file in better.glob("samples_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["verdict"]["outcome"] = "correct"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    worse = Runner(job, tmp_path, STORED=better)
    assert worse.step("Gate") == 3
    assert "Failed: " in worse.summary.read_text()


def test_the_stored_run_is_of_today_s_protocol(job):
    """If this fails, store the run again: docs/ci.md has the two commands."""
    run = json.loads((ROOT / job["env"]["STORED"] / RUN_FILE).read_text())
    today = {
        name: text_hash((tasks_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in job["env"]["TASKS"].split(",")
    }
    assert run["protocol"] == today


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_has_few_rights_and_pins_what_it_uses(file):
    whole = read(file.name)
    assert whole["permissions"] == {"contents": "read"}
    assert whole["concurrency"]["cancel-in-progress"] is True
    assert whole["concurrency"]["group"].startswith(f"{whole['name']}-")
    assert "pull_request" in whole[True]  # YAML reads the key `on` as true
    for one in whole["jobs"].values():
        assert "permissions" not in one
        assert one["timeout-minutes"] <= 30
        used = [step["uses"] for step in one["steps"] if "uses" in step]
        assert used
        assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in used)
        assert not any("${{" in step.get("run", "") for step in one["steps"])


def test_all_workflows_use_one_version_of_an_action():
    jobs = [one for file in WORKFLOWS for one in read(file.name)["jobs"].values()]
    used = {step["uses"] for one in jobs for step in one["steps"] if "uses" in step}
    assert len(used) == len({action.partition("@")[0] for action in used})


def commands(script: str, **env: str) -> str:
    """What a step's `make` would start in a checkout without an environment; starts nothing."""
    dry = script.replace("make ", "make --dry-run VENV=.absent ", 1)
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", dry]
    done = subprocess.run(
        shell, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lint", ["ruff check mistral_eval tests", "ruff format --check mistral_eval", "bin/mypy"]),
        ("quick", ['pytest -n auto --dist worksteal -m "not slow"']),
        ("trained", ["python tools/fetch_trained.py", "--dist loadfile -m trained"]),
    ],
)
def test_the_checks_workflow_starts_lint_types_and_tests(name, expected):
    whole = read("checks.yml")
    script = whole["jobs"][name]["steps"][-1]["run"]
    started = commands(script, **whole["env"])
    assert whole["env"]["PIP_ARGS"] in started
    assert [part for part in expected if part not in started] == []


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_hooks_before_a_commit_run_what_make_check_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    checked = commands("make check")
    for name in ("ruff-check", "ruff-format", "mypy"):
        program, *rest = hooks[name]["entry"].split()
        assert program.startswith(".venv/bin/")
        words = [Path(program).name, *(word for word in rest if not word.startswith("--"))]
        assert f".absent/bin/{' '.join(words)}" in checked


def test_the_documentation_shows_the_workflow_s_own_commands(job):
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    for step in job["steps"]:
        for line in step.get("run", "").splitlines():
            if line.startswith("mistral-eval"):
                assert line.split(" >> ")[0] in page
