"""The batch scripts for Slurm: what they say, and what a real Slurm makes of them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistral_eval.errors import UsageError
from mistral_eval.jobs.slurm import SlurmJob, array_script, ray_script, seconds
from tests.jobs.slurm_daemons import REQUEUE_SECONDS, missing, slurm

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--tasks=mmlu,gsm8k", "--model=tiny", "--data=sample", "--limit=4")
PARTS = 4
REPLIES = 4 * 4 + 4 * 8


def heredoc(script: str, name: str) -> str:
    """Return what a script passes to sbatch."""
    return script.partition(f"<<'{name}'\n")[2].partition(f"\n{name}\n")[0]


def directives(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.+)$", script, re.MULTILINE)


def job(**changed) -> SlurmJob:
    return SlurmJob(**{"options": OPTIONS, "tasks": PARTS, **changed})


# What is written


def test_the_array_has_a_task_per_part_and_a_merge_that_computes_nothing():
    script = array_script(
        job(partition="gpu", time="4:00:00", gpus=1, cpus=8, memory="64G", more=["--account=p"])
    )
    part, merge = heredoc(script, "END_OF_PART"), heredoc(script, "END_OF_MERGE")

    assert directives(part) == [
        "--job-name=mistral-eval", "--array=1-4", "--ntasks=1",
        "--output=slurm-logs/%x-%A_%a.log", "--partition=gpu", "--time=4:00:00",
        "--cpus-per-task=8", "--gpus-per-task=1", "--mem=64G", "--account=p", "--requeue",
        "--open-mode=append", "--signal=B:USR1@300",
    ]  # fmt: skip
    assert directives(merge) == [
        "--job-name=mistral-eval-merge", "--output=slurm-logs/%x-%j.log", "--partition=gpu",
        "--time=4:00:00", "--cpus-per-task=8", "--mem=64G", "--account=p", "--requeue",
        "--open-mode=append",
    ]  # fmt: skip
    assert '--part "$SLURM_ARRAY_TASK_ID/4"' in part
    assert "--no-compute" in merge
    assert "--no-compute" not in part
    assert '--dependency="afterany:$array"' in script
    assert "=afterok" not in script


def test_what_is_not_given_is_left_to_the_cluster():
    script = array_script(job())
    for option in ("partition", "time", "gpus", "cpus", "mem", "account"):
        assert f"#SBATCH --{option}" not in script


def test_the_merge_can_have_a_partition_without_gpus():
    script = array_script(job(partition="gpu", merge_partition="cpu", gpus=2))
    assert "--partition=gpu" in directives(heredoc(script, "END_OF_PART"))
    assert "--partition=cpu" in directives(heredoc(script, "END_OF_MERGE"))
    assert "gpus" not in heredoc(script, "END_OF_MERGE")


@pytest.mark.parametrize(
    "option", ["--output-path=my results/it's", '--system-instruction=a\n$(touch pwned) `b` "c"']
)
def test_options_arrive_as_they_were_given(tmp_path, option):
    """Bash itself reads the script; a program in place of the run says what it was given."""
    program = tmp_path / "mistral-eval"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > given\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_JOB_ID": "9",
    }
    script = heredoc(array_script(job(options=(*OPTIONS, option))), "END_OF_PART")
    subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=environment, check=True)

    given = (tmp_path / "given").read_text().split("\0")[:-1]
    assert given == ["run", *OPTIONS, option, "--part", "3/4"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("write", [array_script, ray_script])
def test_bash_can_read_what_is_written(write):
    script = write(job(setup=["module load cuda", "source 'my env/bin/activate'"], time="30"))
    texts = [script]
    texts += [
        found for name in ("PART", "MERGE", "JOB") if (found := heredoc(script, f"END_OF_{name}"))
    ]
    for text in texts:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert "source 'my env/bin/activate'" in text


def test_parts_are_cancelled_if_their_merge_is_not_accepted(tmp_path):
    programs = {
        "sbatch": 'cat > /dev/null; [ ! -e parts ] || exit 1; touch parts; echo "7;cluster"',
        "scancel": 'echo "$@" > cancelled',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"], input=array_script(job()), text=True, cwd=tmp_path, env=environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The merge was not accepted; its parts, job 7, are cancelled.\n"
    assert (tmp_path / "cancelled").read_text() == "7\n"


def test_ray_starts_on_all_nodes_and_the_command_on_the_first():
    script = ray_script(job(cpus=8, gpus=2))
    assert {"--nodes=4", "--ntasks-per-node=1", "--no-kill", "--requeue"} <= {*directives(script)}
    assert '--workers "ray://$head:$port"' in script
    assert "--num-cpus=8 --num-gpus=2" in script
    assert "--no-kill --cpus-per-task=8 " in script  # srun does not take it from the job
    assert '--num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus=0' in ray_script(job())
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(" in script
    assert "--part" not in script.replace("--partition", "")


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("90:30", 5430), ("4:00:00", 14400), ("1-12", 129600), ("1-12:30", 131400),
     ("2-00:00:01", 172801)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(time, expected):
    assert seconds(time) == expected


def test_a_run_is_told_to_stop_well_before_a_short_limit():
    assert "--signal=B:USR1@60" in directives(array_script(job(time="5")))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"time": "4h"}, "--time should be a time limit as Slurm writes it"),
        ({"time": "0"}, "--time should be"),
        ({"time": " 90"}, "--time should be"),
        ({"time": "1:2:3:4"}, "--time should be"),
        ({"tasks": 0}, "--parts or --nodes should be 1 or more, and is 0"),
        ({"gpus": -1}, "--gpus-per-task should be 0 or more, and is -1"),
        ({"cpus": 0}, "--cpus-per-task should be 1 or more, and is 0"),
        ({"memory": "64 GB"}, "--mem should be a number with K, M, G or T"),
        ({"partition": "a b"}, "--partition should be made of letters"),
        ({"name": "a/b"}, "--job-name should be made of letters"),
        ({"more": ["account=p"]}, "--sbatch should be an option of sbatch"),
        ({"more": ["--"]}, "--sbatch should be an option of sbatch"),
        ({"more": ["--account=p\ntouch pwned"]}, "--sbatch should be an option of sbatch"),
    ],
)
def test_what_slurm_would_not_take_is_refused_in_a_sentence(changed, sentence):
    with pytest.raises(UsageError) as caught:
        job(**changed)
    assert sentence in str(caught.value)


# The command line


def test_options_of_run_go_into_the_script(tmp_path, cli):
    config = tmp_path / "run.yaml"
    config.write_text("seed: 3\nlimit: 8\nunsafe-code: true\n")
    file = tmp_path / "a job.sh"
    code, out, err = cli(
        *("cluster", "slurm", "-t", "mmlu,gsm8k", "-m", "tiny", "--data", "sample"),
        *("--config", config, "-L", "4", "--no-stream-layers", "--parts", "3", "-o", file),
    )

    assert (code, out) == (0, "")
    assert err == f"Submit it with: bash {shlex.quote(str(file))}\n"
    part = heredoc(file.read_text(), "END_OF_PART")
    command = part.partition("mistral-eval run")[2].partition("&\n")[0]
    command = shlex.split(command.replace("\\\n", " "))
    assert sorted(command) == sorted(
        [
            *("--tasks=mmlu,gsm8k", "--model=tiny", "--data=sample", "--seed=3", "--limit=4"),
            *("--unsafe-code", "--no-stream-layers", "--part", "$SLURM_ARRAY_TASK_ID/3"),
        ]
    )


def test_without_a_file_the_script_is_printed(cli):
    code, out, err = cli("cluster", "slurm", "-t", "mmlu", "-m", "tiny", "--ray", "--nodes", "2")
    assert (code, err) == (0, "")
    assert out.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=2\n" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--parts", "2", "-t", "mmul"), "mmlu"),
        (("--parts", "2", "--verify", "3"), "--verify needs the whole run"),
        (("--parts", "2", "-t", "lm_eval:arc_easy"), "divides our own benchmarks"),
        (("--parts", "2", "--nodes", "2"), "--parts and --nodes are the same"),
        (("--ray", "--parts", "2"), "Give --nodes instead"),
        (("--parts", "0"), "--parts should be 1 or more, and is 0"),
        (("--nodes", "0"), "--nodes should be 1 or more, and is 0"),
        ((), "Expected the number of tasks"),
    ],
)
def test_a_job_that_could_not_run_is_not_written(options, sentence, cli):
    code, out, err = cli("cluster", "slurm", "-t", "mmlu", "-m", "tiny", *options)
    assert (code, out) == (2, "")
    assert sentence in err


# A real Slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of one node; skips where it is not installed, fails where it is required."""
    if why := missing():
        if os.environ.get("MISTRAL_EVAL_REQUIRE_SLURM") == "1":
            pytest.fail(why)
        pytest.skip(why)
    with slurm(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def setup() -> list[str]:
    """Return what lets a job find this checkout's command."""
    folder = Path(sys.executable).parent
    return [
        f"export PATH={shlex.quote(str(folder))}:$PATH PYTHONPATH={shlex.quote(str(ROOT))}",
        "export OMP_NUM_THREADS=1",
    ]


def lines_of(output: Path) -> list[dict]:
    logs = [file.read_bytes() for file in sorted(output.rglob("replies/*.jsonl"))]
    return [json.loads(line) for log in logs for line in log.split(b"\n")[:-1]]


def process_of(folder: Path, part: str) -> int:
    """Return the number of the process that answers a part of a run in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if part.encode() in words and (process / "cwd").resolve() == folder:
                return int(process.name)
        except OSError:  # it has ended
            continue
    raise AssertionError(f"no process answers part {part}")


@pytest.mark.slurm
@pytest.mark.parametrize("write", [array_script, ray_script])
def test_slurm_takes_gpus_and_other_options_as_they_were_given(cluster, tmp_path, write):
    (tmp_path / "my jobs" / "slurm-logs").mkdir(parents=True)
    work = f"{tmp_path}/my jobs"
    more = ["--comment=it's # two words", "--mail-user me@example.org", f"-D{work}", "--exclusive"]
    written = write(job(tasks=1, gpus=2, cpus=1, more=more, setup=["exit 0"]))
    script = tmp_path / "job.sh"
    script.write_text(written)
    for number in re.findall(r"job (\d+)", cluster.call("bash", str(script), cwd=tmp_path)):
        said = cluster.call("scontrol", "--oneliner", "show", "job", number)
        assert "Comment=it's # two words " in said
        assert f"WorkDir={work} " in said
        assert ("TresPerTask=gres:gpu:2" in said) == ("-merge" not in said)
        assert cluster.wait(number, ("COMPLETED", "FAILED"), 60)["JobState"] == "COMPLETED"


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_an_array_with_a_task_that_is_killed_and_requeued_ends_as_one_process(cluster, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    slowly = (*OPTIONS, "--batch-tokens=8", "--quiet")  # a kill falls between two replies
    script = folder / "job.sh"
    script.write_text(array_script(job(options=slowly, setup=setup())))
    began = time.monotonic()
    said = cluster.call("bash", str(script), cwd=folder)
    array, merge = re.findall(r"job (\d+)", said)
    victim = f"{array}_{PARTS}"  # its SLURM_JOB_ID is the array's: only it may be requeued
    _wait_for(lambda: _durable(folder, f"part{PARTS}of{PARTS}-attempt1") > 6, 400)
    os.kill(process_of(folder, f"{PARTS}/{PARTS}"), signal.SIGKILL)
    _wait_for(lambda: cluster.job(victim).get("Restarts") == "1", 60)
    first = _durable(folder, f"part{PARTS}of{PARTS}-attempt1")

    done = cluster.wait(merge, ("COMPLETED", "FAILED", "CANCELLED"), 600)
    logs = {file.name: file.read_text() for file in (folder / "slurm-logs").iterdir()}
    assert done["JobState"] == "COMPLETED", logs
    assert "mmlu" in logs[f"mistral-eval-merge-{merge}.log"].lower()
    print(f"array, requeue ({REQUEUE_SECONDS} s) and merge: {time.monotonic() - began:.0f} s")
    assert [cluster.job(f"{array}_{n}")["Restarts"] for n in range(1, 5)] == ["0", "0", "0", "1"]
    files = sorted(file.stem.partition("part")[2] for file in folder.rglob("replies/*.jsonl"))
    assert files == ["1of4-attempt1", "2of4-attempt1", "3of4-attempt1", "4of4-attempt1",
                     "4of4-attempt2"]  # fmt: skip
    found = lines_of(folder)
    assert len(found) == len({line["key"] for line in found}) == REPLIES  # nothing twice
    run = json.loads(next(folder.rglob("run.json")).read_text())
    assert run["counts"]["from_log"] == first

    one = _assert_as_one_process(folder, found)
    assert run["scores"] == one["scores"]


def _assert_as_one_process(folder: Path, found: list[dict]) -> dict:
    """Run the command in one process and compare; return that run's run.json."""
    whole = [sys.executable, "-m", "mistral_eval", "run", *OPTIONS, "--output-path=one", "--quiet"]
    subprocess.run(whole, cwd=folder, check=True, capture_output=True, timeout=300)
    expected = {line["key"]: line["reply"] for line in lines_of(folder / "one")}
    assert {line["key"] for line in found} == expected.keys()
    for line in found:
        reply, other = line["reply"], expected[line["key"]]
        assert reply.pop("logprob", 0.0) == pytest.approx(other.pop("logprob", 0.0), abs=1e-5)
        assert reply == other
    return json.loads(next((folder / "one").rglob("run.json")).read_text())


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_task_out_of_time_goes_on_and_a_cancelled_one_does_not(cluster, tmp_path):
    options = (*OPTIONS, "--batch-tokens=8", "--quiet")
    script = tmp_path / "job.sh"
    script.write_text(array_script(job(options=options, tasks=2, setup=setup())))
    array, merge = re.findall(r"job (\d+)", cluster.call("bash", str(script), cwd=tmp_path))
    for number in (1, 2):
        _wait_for(lambda n=number: _durable(tmp_path, f"part{n}of2-attempt1") > 4, 400)
    # what Slurm does before the time limit, by --signal
    cluster.call("scancel", "--batch", "--signal=USR1", f"{array}_1")
    cluster.call("scancel", f"{array}_2")

    assert cluster.wait(f"{array}_2", ("CANCELLED",), 120)["Restarts"] == "0"
    done = cluster.wait(f"{array}_1", ("COMPLETED", "FAILED"), 400)
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1")
    log = (tmp_path / "slurm-logs" / f"mistral-eval-{array}_1.log").read_text()
    assert "Stopped by SIGTERM" in log  # the log has both attempts
    assert cluster.wait(merge, ("COMPLETED", "FAILED"), 200)["JobState"] == "FAILED"
    said = (tmp_path / "slurm-logs" / f"mistral-eval-merge-{merge}.log").read_text()
    assert "part 2 of 2 not finished." in said


@pytest.mark.slow
@pytest.mark.slurm
def test_a_merge_begins_after_a_task_that_failed_and_names_what_is_missing(cluster, tmp_path):
    failing = ['[ "$SLURM_ARRAY_TASK_ID" != 2 ] || exit 1', *setup()]
    options = ("--tasks=mmlu", "--engine=random", "--data=sample", "--limit=8", "--quiet")
    script = tmp_path / "job.sh"
    script.write_text(array_script(job(options=options, tasks=2, setup=failing)))
    array, merge = re.findall(r"job (\d+)", cluster.call("bash", str(script), cwd=tmp_path))

    assert cluster.wait(merge, ("COMPLETED", "FAILED"), 200)["JobState"] == "FAILED"
    assert cluster.job(f"{array}_2")["JobState"] == "FAILED"
    said = (tmp_path / "slurm-logs" / f"mistral-eval-merge-{merge}.log").read_text()
    assert re.search(r"and \d+ of them are missing: mmlu \d+\. State of the parts: part 2 of 2 not "
                     r"begun\.", said), said  # fmt: skip
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_ray_on_the_nodes_of_one_job_ends_as_one_process(cluster, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install mistral-eval[ray]")
    options = (*OPTIONS, "--quiet", "--output-path=ray")
    script = tmp_path / "job.sh"
    script.write_text(ray_script(job(options=options, tasks=1, cpus=2, setup=setup())))
    (number,) = re.findall(r"job (\d+)", cluster.call("bash", str(script), cwd=tmp_path))

    done = cluster.wait(number, ("COMPLETED", "FAILED", "CANCELLED"), 400)
    logs = {file.name: file.read_text() for file in (tmp_path / "slurm-logs").iterdir()}
    assert done["JobState"] == "COMPLETED", logs
    assert "MMLU" in logs[f"mistral-eval-{number}.log"]
    _assert_as_one_process(tmp_path, lines_of(tmp_path / "ray"))


def _durable(folder: Path, share: str) -> int:
    logs = folder.rglob(f"replies/*-{share}.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in logs)


def _wait_for(is_so, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)
