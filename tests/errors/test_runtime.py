"""What goes wrong in the middle of a run: one sentence, nothing lost, and the next run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_eval.answers.math_checker import _Worker
from mistral_eval.engines.native import NativeEngine
from mistral_eval.errors import EngineError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.run.judging import judge_benchmark
from mistral_eval.sandbox import probe
from mistral_eval.sandbox.guest_process import GuestProcess

SAMPLE = ("--data", "sample", "-q")
TINY = ("run", "-t", "winogrande,nq", "-m", "tiny", "-L", "4", *SAMPLE)
LOTS = "mmlu,arc_easy,hellaswag,winogrande,piqa,gsm8k,nq,triviaqa"
LOT = ("run", "-t", LOTS, "--engine", "random", *SAMPLE)
LIMITED = """
import resource, sys
from mistral_eval.cli.app import main
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main()
"""


def record(results: Path) -> dict:
    (run,) = results.rglob("run.json")
    return json.loads(run.read_text())


def process(limit: int, *arguments: object, wrapper: tuple[str, ...] = ()) -> tuple[int, str]:
    """The command line in a process whose files may not grow beyond `limit` bytes (0: any size)."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture
def model(tmp_path) -> Path:
    return save_hf(make_tiny(), tmp_path / "model", tokenizer_file=tiny_tokenizer_file())


@pytest.mark.parametrize(
    ("task", "named"), [("winogrande", "question 0, choice"), ("gsm8k", "question 0, sample 0")]
)
def test_logits_that_are_not_finite_name_benchmark_and_question(cli, tmp_path, model, task, named):
    """Finite weights whose products overflow: found out where they are used."""
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    code, out, err = cli(
        "run", "-t", task, "-m", model, "-L", "1", *SAMPLE, "-o", tmp_path / "results"
    )
    assert (code, out) == (1, "")
    assert err.startswith(f"mistral-eval: {task} {named}")
    assert "the model's logits are not finite" in err
    assert err.count("\n") == 1


def test_a_prompt_longer_than_the_context_is_cut_and_counted_and_the_table_says_so(
    cli, tmp_path, model
):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    code, out, err = cli(
        "run", "-t", "mmlu", "-m", model, "-L", "2", *SAMPLE, "-o", tmp_path / "results"
    )
    assert (code, err) == (0, "")
    run = record(tmp_path / "results")
    assert run["counts"]["truncated"] == 2 * 4
    said = "8 requests longer than the model's context, cut on the left"
    assert said in " ".join(out.split())
    (table,) = (tmp_path / "results").rglob("table.md")
    assert said in table.read_text()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (EngineError("The engine says no."), "The engine says no."),
        (
            RuntimeError("CUDA error: device lost\nmore"),
            "native failed while answering winogrande (CUDA err",
        ),
        (MemoryError(), "native failed while answering winogrande (MemoryError)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_engine_that_raises_in_the_middle_loses_nothing(
    cli, tmp_path, monkeypatch, error, sentence
):
    answer = NativeEngine.answer

    def failing(self, *arguments):
        for count, reply in enumerate(answer(self, *arguments)):
            if count == 5:
                raise error
            yield reply

    monkeypatch.setattr(NativeEngine, "answer", failing)
    code, out, err = cli(*TINY, "-o", tmp_path / "results")
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.startswith("mistral-eval: ")
    assert err.count("\n") == 1
    monkeypatch.undo()
    assert cli(*TINY, "-o", tmp_path / "results")[0] == 0
    assert cli(*TINY, "-o", tmp_path / "whole")[0] == 0
    run, whole = record(tmp_path / "results"), record(tmp_path / "whole")
    assert (run["counts"]["from_log"], run["counts"]["computed"]) == (5, 8 + 4 - 5)
    assert run["scores"] == whole["scores"]


def test_with_debug_an_engines_error_keeps_its_traceback(cli, tmp_path, monkeypatch):
    def failing(self, *arguments):
        raise RuntimeError("lost")
        yield

    monkeypatch.setattr(NativeEngine, "answer", failing)
    with pytest.raises(EngineError, match=r"failed while answering winogrande \(lost\)"):
        cli("--debug", *TINY, "-o", tmp_path / "results")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (36_000, "Replies written before are safe in it"),
        (100_000, "The replies are safe in"),
    ],
    ids=["while answering", "while saving"],
)
def test_a_file_that_may_not_grow_is_one_sentence_and_the_next_run_goes_on(
    cli, tmp_path, limit, sentence
):
    """The replies log of this run has some 60 kB, the largest file of samples more than 100."""
    results = tmp_path / "results"
    code, err = process(limit, *LOT, "-o", results)
    assert code == 1, err
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(results.rglob("run.json"))
    assert not [file for file in results.rglob(".*") if file.is_file()]
    assert cli(*LOT, "-o", results)[0] == 0
    assert cli(*LOT, "-o", tmp_path / "whole")[0] == 0
    run, whole = record(results), record(tmp_path / "whole")
    assert run["scores"] == whole["scores"]
    total = whole["counts"]["computed"]
    assert run["counts"]["computed"] + run["counts"]["from_log"] == total
    if limit == 100_000:
        assert run["counts"]["computed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", ["90k", "350k"], ids=["while answering", "while saving"])
def test_a_full_disk_is_one_sentence_and_spoils_no_earlier_result(tmp_path, size):
    """A small tmpfs in a mount namespace of its own, which is made larger for the second run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "limited.py").write_text(LIMITED)
    command = " ".join([sys.executable, f"{tmp_path}/limited.py", "0", *LOT, "-o", f"{disk}/r"])
    script = (
        f"mount -t tmpfs -o size={size} none {disk} || exit 99\n"
        f"{command} > {tmp_path}/out 2> {tmp_path}/err; echo $? > {tmp_path}/code\n"
        f"find {disk} -type f > {tmp_path}/files\n"
        f"mount -o remount,size=9m {disk}\n"
        f"{command} > /dev/null 2> {tmp_path}/again; echo $? >> {tmp_path}/code\n"
        f"cp {disk}/r/*/*/run.json {tmp_path}\n"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], check=False, capture_output=True, text=True
    )
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    err = (tmp_path / "err").read_text()
    assert (tmp_path / "code").read_text().split() == ["1", "0"], err
    assert err.startswith("mistral-eval: ")
    assert err.count("\n") == 1
    assert "run.json" not in (tmp_path / "files").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(cli, tmp_path):
    """As root nothing but a read-only file system is unwritable."""
    results = tmp_path / "results"
    results.mkdir()
    if os.geteuid():
        results.chmod(0o555)
        code, _, err = cli(*LOT, "-o", results)
        results.chmod(0o755)
    else:
        read_only = (
            *("unshare", "-m", "sh", "-c"),
            f'mount -t tmpfs -o ro none {results} || exit 99; exec "$@"',
            "sh",
        )
        code, err = process(0, *LOT, "-o", results, wrapper=read_only)
        if code == 99 or err.startswith("unshare:"):
            pytest.skip(f"no file system of our own here: {err.strip()}")
    assert code == 1
    assert err.startswith("mistral-eval: Results should go to ")
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_a_second_process_on_the_same_run_stops_with_a_sentence(cli, tmp_path):
    """A whole other process holds it; once that is gone, even by a kill, the run goes on."""
    assert cli(*LOT, "-o", tmp_path)[0] == 0
    (run,) = tmp_path.rglob("run.json")
    run.unlink()
    program = (
        "import sys; from pathlib import Path; from mistral_eval.record.replies import RepliesLog\n"
        "with RepliesLog(Path(sys.argv[1])):\n    print('mine', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, run.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "mine\n"
        code, out, err = cli(*LOT, "-o", tmp_path)
        other.kill()
    assert (code, out) == (1, "")
    assert "Another process is working on the run" in err
    assert cli(*LOT, "-o", tmp_path)[0] == 0


def test_a_maths_worker_that_is_killed_costs_one_comparison_and_no_run(cli, tmp_path, monkeypatch):
    feed, killed = _Worker.feed, []

    def deadly(self, todo):
        feed(self, todo)
        if self.pair and not killed:
            self._process.kill()
            killed.append(self.pair)

    monkeypatch.setattr(_Worker, "feed", deadly)
    results = tmp_path / "results"
    code, _, err = cli("run", "-t", "math", "--engine", "oracle-wrong", *SAMPLE, "-o", results)
    assert (code, err) == (0, "")
    assert killed
    assert record(results)["scores"]["math"]["correct"] == 0


@pytest.mark.sandbox
def test_a_sandbox_that_is_killed_costs_its_program_at_most_and_no_run(cli, tmp_path, monkeypatch):
    if not probe("auto").available:
        pytest.skip("no isolation here")
    start_job, killed, judging = GuestProcess.start_job, [], []

    def judge(*arguments):
        judging.append(True)  # before, the sandbox is only tried
        return judge_benchmark(*arguments)

    def deadly(self, *arguments):
        if judging and len(killed) < 2:
            self._process.kill()
            self._process.wait()
            killed.append(self)
        start_job(self, *arguments)

    monkeypatch.setattr(GuestProcess, "start_job", deadly)
    monkeypatch.setattr("mistral_eval.run.judge_run.judge_benchmark", judge)
    results = tmp_path / "results"
    code, _, err = cli("run", "-t", "mbpp", "--engine", "oracle", *SAMPLE, "-o", results)
    assert (code, err) == (0, "")
    assert len(killed) == 2
    assert record(results)["scores"]["mbpp"]["correct"] >= 16 - len(killed)
