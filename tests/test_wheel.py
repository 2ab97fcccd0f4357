"""The built wheel, in an environment of its own: what a user installs is what was tested."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from mistral_eval.suite.registry import BENCHMARKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> str:
    """The standard output of a command; its errors are the test's."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", folder, ROOT),
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel alone; its dependencies are borrowed from this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home)
    site = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=home).strip()
    )
    borrowed = sysconfig.get_paths()["purelib"]  # behind the wheel, and without its .pth files
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    return python


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mistral_eval"}
    yamls = {name for name in names if name.endswith(".yaml")}
    assert yamls == {f"mistral_eval/_tasks/{benchmark.id}.yaml" for benchmark in BENCHMARKS}
    assert "mistral_eval/_baselines/mistral-paper-table2.json" in names
    assert "mistral_eval/_baselines/chat/mistral-paper-table3.json" in names
    assert "mistral_eval/py.typed" in names
    assert "mistral_eval/data/fingerprints.json" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/mistral_eval/data/LICENSE-DATA") for name in names)
    assert "mistral_eval/data/sample/mmlu/all/dev.jsonl" in names


def test_the_wheel_holds_no_developers_files(wheel):
    folders = {part for name in zipfile.ZipFile(wheel).namelist() for part in Path(name).parts}
    assert {"mistral_eval", "_tasks"} <= folders  # or the next line would hold of any archive
    assert folders.isdisjoint({"speed", "tools", "tests", "findings", "docs"})


def test_the_wheel_holds_every_tracked_file_of_the_package(wheel):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files belong to the package")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "mistral_eval", cwd=ROOT).split()
    assert set(tracked) - names == set()


def test_the_wheel_names_the_console_script(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "mistral-eval = mistral_eval.cli.app:main" in archive.read(entry).decode()


def test_the_installed_package_is_the_wheels(installed, tmp_path):
    found = run(installed, "-c", "import mistral_eval; print(mistral_eval.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parents[1])


def cli(installed: Path, folder: Path, *arguments: str) -> str:
    return run(installed.with_name("mistral-eval"), *arguments, cwd=folder)


def test_the_task_files_lie_in_the_installed_package(installed, tmp_path):
    folder = Path(cli(installed, tmp_path, "tasks", "--path").strip())
    assert folder.name == "_tasks"
    assert folder.is_relative_to(installed.parents[1])
    assert len(list(folder.glob("*.yaml"))) == len(BENCHMARKS)


def test_the_table_is_printed_outside_the_checkout(installed, tmp_path):
    assert "| Mistral 7B " in cli(installed, tmp_path, "table", "--format", "md")


def test_the_demos_command_runs_outside_the_checkout(installed, tmp_path):
    options = ("--tasks", "mmlu,gsm8k", "--model", "tiny", "--data", "sample")
    assert "tiny" in cli(installed, tmp_path, "run", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert list(tmp_path.glob("results/tiny/mmlu+gsm8k-*/run.json"))
