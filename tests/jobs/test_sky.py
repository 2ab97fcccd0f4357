"""The tasks for SkyPilot: what they say, and that SkyPilot's own parser reads them."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mistral_eval import __version__
from mistral_eval.errors import UsageError
from mistral_eval.jobs.sky import CLOUDS, STRATEGIES, SkyTask, task_yaml

SKY = "MISTRAL_EVAL_SKY"  # a Python that has SkyPilot; `make sky-test` sets it
OPTIONS = ("--tasks=paper", "--model=mistralai/Mistral-7B-v0.1")
TASKS = {
    "one": {},
    "four": {"nodes": 4},
    "spot": {"nodes": 4, "is_spot": True, "infra": "aws/us-east-1"},
    "failover": {"is_spot": True, "infra": "gcp", "recovery": "FAILOVER", "bucket": "gs://runs/a"},
    "kubernetes": {"nodes": 2, "infra": "k8s/my-context"},
    "slurm": {"nodes": 2, "infra": "slurm/cluster/partition", "bucket": None},
    "cores": {"accelerators": None, "cpus": "8+"},
    "checkout": {"workdir": Path(__file__).resolve().parents[2], "extras": ["vllm"]},
}
# Reads tasks by name from its input; says what SkyPilot makes of each.
PROGRAM = """
import copy, json, sys, yaml, sky
found = {}
for name, text in json.load(sys.stdin).items():
    try:
        task = sky.Task.from_yaml_config(yaml.safe_load(text))
    except Exception as error:
        found[name] = {"refused": f"{type(error).__name__}: {error}"}
        continue
    (resources,) = task.resources
    found[name] = {
        "nodes": task.num_nodes,
        "cloud": resources.infra.cloud,
        "region": resources.infra.region,
        "accelerators": resources.accelerators,
        "spot": resources.use_spot,
        "recovery": resources.job_recovery,
        "mounts": {path: storage.source for path, storage in task.storage_mounts.items()},
        "run": task.run,
        "setup": task.setup,
    }
from sky.utils.registry import JOBS_RECOVERY_STRATEGY_REGISTRY
import sky.jobs.recovery_strategy
strategies = sorted(JOBS_RECOVERY_STRATEGY_REGISTRY)
from sky.skylet import constants
print(json.dumps({"tasks": found, "strategies": strategies, "clouds": list(constants.ALL_CLOUDS)}))
"""


def task(**changed) -> SkyTask:
    fields = {"options": OPTIONS, "bucket": "s3://my-runs", "accelerators": "A100:1"}
    return SkyTask(**{**fields, **changed})


def config(**changed) -> dict:
    return yaml.safe_load(task_yaml(task(**changed)))


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """What SkyPilot makes of all tasks; skips where it is not installed."""
    python = os.environ.get(SKY)
    if python is None and importlib.util.find_spec("sky") is None:
        pytest.skip("needs SkyPilot, in an environment of its own: make sky-test")
    texts = {name: task_yaml(task(**changed)) for name, changed in TASKS.items()}
    texts["no such strategy"] = texts["one"].replace("EAGER_NEXT_REGION", "NO_SUCH_STRATEGY")
    texts["no such cloud"] = texts["kubernetes"].replace("k8s/my-context", "nowhere")
    home = tmp_path_factory.mktemp("home")  # SkyPilot keeps its own files there
    done = subprocess.run(
        [python or sys.executable, "-c", PROGRAM], input=json.dumps(texts), text=True,
        capture_output=True, check=False, timeout=300,
        env={**os.environ, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# SkyPilot's own parser


@pytest.mark.parametrize("name", TASKS)
def test_skypilot_reads_what_is_written(sky, name):
    found, expected = sky["tasks"][name], task(**TASKS[name])

    assert "refused" not in found, found
    assert found["nodes"] == expected.nodes
    assert found["spot"] == expected.is_spot
    assert found["recovery"] == {"strategy": expected.recovery, "max_restarts_on_errors": 3}
    assert found["accelerators"] == (None if name == "cores" else {"A100": 1})
    bucket = expected.bucket and "/".join(expected.bucket.split("/")[:3])
    assert found["mounts"] == ({"/bucket": bucket} if bucket else {})
    assert "mistral-eval run" in found["run"]
    clouds = {"spot": "AWS", "failover": "GCP", "kubernetes": "Kubernetes", "slurm": "Slurm"}
    assert found["cloud"] == clouds.get(name)


def test_what_skypilot_lets_pass_and_what_it_refuses(sky):
    """Its parser accepts a strategy that does not exist; our own check is for that."""
    assert sky["tasks"]["no such strategy"]["recovery"]["strategy"] == "NO_SUCH_STRATEGY"
    assert "InvalidSkyPilotConfigError" in sky["tasks"]["no such cloud"]["refused"]


def test_our_lists_are_skypilots(sky):
    assert sorted(map(str.lower, STRATEGIES)) == sky["strategies"]
    assert {*CLOUDS} == {*map(str.lower, sky["clouds"]), "kubernetes", "k8s"}


# What is written


def test_one_machine_runs_the_command_alone():
    found = config()
    assert "num_nodes" not in found
    assert found["resources"] == {
        "accelerators": "A100:1",
        "use_spot": False,
        "job_recovery": {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": 3},
    }
    assert found["file_mounts"] == {"/bucket": {"source": "s3://my-runs", "mode": "MOUNT"}}
    words = shlex.split(found["run"].replace("\\\n", " ").partition("mistral-eval run")[2])
    assert words == [*OPTIONS, "--output-path=s3://my-runs/results"]
    assert f"'mistral-eval[s3]=={__version__}'" in found["setup"]


@pytest.mark.parametrize(
    ("changed", "installed"),
    [
        ({"bucket": None}, f"'mistral-eval=={__version__}'\n"),
        ({"bucket": "gs://my-runs"}, f"'mistral-eval=={__version__}' gcsfs\n"),
        ({"nodes": 2, "extras": ["vllm"]}, f"'mistral-eval[vllm,ray,s3]=={__version__}'\n"),
        ({"workdir": Path(__file__).resolve().parents[2]}, "'.[s3]'\n"),
        (
            {"bucket": None, "options": (*OPTIONS, "--output-path=s3://my-runs/x")},
            f"'mistral-eval[s3]=={__version__}'\n",
        ),
    ],
)
def test_setup_installs_what_the_run_needs(changed, installed):
    assert f"uv pip install {installed}" in config(**changed)["setup"]


def test_the_first_of_several_machines_runs_the_command():
    found = config(nodes=4)
    assert found["num_nodes"] == 4
    before, _, command = found["run"].partition("mistral-eval run")
    assert 'if [ "$SKYPILOT_NODE_RANK" != 0 ]; then' in before
    assert "exit 0" in before
    assert "export RAY_AUTH_MODE=token\n" in before
    assert "export RAY_AUTH_TOKEN=$(" in before
    assert "port=6379" in before  # SkyPilot's own Ray has 6380
    assert '--workers "ray://$head:$port"' in command


@pytest.mark.parametrize(
    "option", ["--output-path=my results/it's", '--system-instruction=a\n$(touch pwned) `b` "c"']
)
def test_options_arrive_as_they_were_given(tmp_path, option):
    program = tmp_path / "mistral-eval"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > given\n')
    program.chmod(0o755)
    (tmp_path / "mistral-eval-env" / "bin").mkdir(parents=True)
    (tmp_path / "mistral-eval-env" / "bin" / "activate").touch()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = config(options=(*OPTIONS, option), bucket=None)["run"]
    subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=environment, check=True)

    given = (tmp_path / "given").read_text().split("\0")[:-1]
    assert given == ["run", *OPTIONS, option]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", TASKS)
def test_bash_can_read_what_is_written(name):
    found = config(**TASKS[name])
    for key in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=found[key], text=True, check=True)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"recovery": "EAGER_NEXT_REGOIN"}, "Did you mean EAGER_NEXT_REGION?"),
        ({"infra": "asw"}, "Did you mean aws or vast?"),
        ({"infra": "slurm/a", "is_spot": True}, "--spot is for clouds, and --infra is slurm"),
        ({"accelerators": "A100 x 1"}, "--accelerators should be a name and a number"),
        ({"cpus": "many"}, "--cpus should be a number"),
        ({"bucket": "my-runs"}, "--bucket should be a URL like s3://NAME"),
        ({"bucket": "https://my-runs"}, "--bucket should be a URL like s3://NAME"),
        ({"nodes": 0}, "--nodes should be 1 or more, and is 0"),
        ({"name": "a b"}, "--job-name should be made of letters"),
        ({"workdir": Path("/nowhere")}, "--workdir should be a folder with mistral-eval's"),
    ],
)
def test_what_could_not_run_is_refused_in_a_sentence(changed, sentence):
    with pytest.raises(UsageError) as caught:
        task(**changed)
    assert sentence in str(caught.value)


# The command line


def test_options_of_run_go_into_the_task(tmp_path, cli):
    file = tmp_path / "task.yaml"
    code, out, err = cli(
        *("cluster", "sky", "-t", "mmlu", "-m", "tiny", "--engine", "vllm", "--nodes", "2"),
        *("--spot", "--infra", "aws", "--bucket", "s3://my-runs/a/b", "-o", file),
    )
    assert (code, out) == (0, "")
    assert err == f"Submit it with: sky jobs launch {shlex.quote(str(file))}\n"
    found = yaml.safe_load(file.read_text())
    assert found["num_nodes"] == 2
    assert found["resources"]["use_spot"] is True
    assert "--engine=vllm" in found["run"]
    assert "--output-path=s3://my-runs/a/b" in found["run"]
    assert f"'mistral-eval[vllm,ray,s3]=={__version__}'" in found["setup"]


def test_a_folder_that_a_slurm_cluster_shares_may_be_named(cli, tmp_path):
    code, out, _ = cli(
        *("cluster", "sky", "-t", "mmlu", "-m", tmp_path, "--output-path", "runs"),
        *("--infra", "Slurm/ours"),
    )
    assert code == 0
    assert str(tmp_path) in out


def test_a_judge_s_engine_is_installed_too(cli):
    code, out, _ = cli(
        *("cluster", "sky", "-t", "mt_bench", "-m", "tiny", "--bucket", "s3://my-runs"),
        *("--judge-engine", "vllm", "--judge-model", "org/judge"),
    )
    assert code == 0
    assert "mistral-eval[vllm,s3]==" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Give --bucket, or --output-path"),
        (("--bucket", "s3://runs", "--output-path", "x"), "names another place"),
        (("--bucket", "s3://runs", "-t", "mmul"), "mmlu"),
        (("--bucket", "s3://runs", "--infra", "azrue"), "Did you mean azure?"),
        (("--bucket", "s3://runs", "--recovery", "never"), "Known: EAGER_NEXT_REGION, FAILOVER."),
        (("--bucket", "s3://runs", "--chat-template", __file__), "is on this machine"),
        (("--bucket", "s3://runs", "--data", str(Path(__file__).parent)), "is on this machine"),
        (("--bucket", "s3://runs", "--model-args", f"tokenizer={__file__}"), "is on this machine"),
        (
            (
                *("--bucket", "s3://runs", "-t", "mt_bench", "--engine", "hf"),
                *("--judge-engine", "native", "--judge-model", __file__),
            ),
            f"--judge-model {__file__} is on this machine",
        ),
        (("--bucket", "s3://runs", "--workers", "ray://auto"), "the job's one machine is in none"),
        (("--output-path", "s3:/runs"), "--output-path: expected a folder or a URL"),
    ],
)
def test_a_task_that_could_not_run_is_not_written(options, sentence, cli):
    code, out, err = cli("cluster", "sky", "-t", "mmlu", "-m", "tiny", *options)
    assert (code, out) == (2, "")
    assert sentence in err
