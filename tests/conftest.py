"""What several tests share: the real test sets and the trained model where they exist."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest
from fetch_trained import VARIABLE, TrainedModelError, trained_model
from hypothesis import HealthCheck, settings

from mistral_eval.cli.app import main

# A busy machine may take any time for an example.
# The same examples in every run: among new ones there is, once in a while, a tie of two tokens that
# rounding decides. `--hypothesis-profile explore` looks for new examples.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **PATIENT)
settings.register_profile("explore", **PATIENT)
settings.load_profile("same")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Heed SIGINT, which a shell's background job ignores, in the tests and what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> Iterator[None]:
    """Keep what is measured about this machine out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """Fail a test that takes 30 seconds of processor time, however busy the machine is."""
    began = process_time()
    yield
    assert process_time() - began < 30


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real test sets and transcripts beside the checkout; skips where they are absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real test sets in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def trained() -> Path:
    """The trained model's GGUF file; skips where it was not fetched, fails where it is required."""
    try:
        return trained_model()
    except TrainedModelError as error:
        if VARIABLE in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))


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
