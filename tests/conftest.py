"""What several tests share: the real test sets where they exist."""

from pathlib import Path

import pytest

from mistral_eval.cli.app import main

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real test sets and transcripts beside the checkout; skips where they are absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real test sets in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def sample_runs(tmp_path_factory) -> dict[str, Path]:
    """Finished runs of the oracle, of chance and of a wrong oracle on the bundled questions."""
    from mistral_eval.console import Talk
    from mistral_eval.run.run import run_suite
    from mistral_eval.settings import RunSettings

    tasks = ("mmlu", "winogrande", "nq", "gsm8k")
    folder = tmp_path_factory.mktemp("runs")
    return {
        engine: run_suite(
            RunSettings(tasks=tasks, engine=engine, data="sample", output_path=folder),
            Talk(quiet=True),
        )
        for engine in ("oracle", "random", "oracle-wrong")
    }


@pytest.fixture
def cli(monkeypatch, capsys):
    """The command line as a user meets it: arguments to exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mistral-eval", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
