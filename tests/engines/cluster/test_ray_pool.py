"""Workers on a real Ray cluster of two nodes on this machine."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_eval.engines.cluster.engine import ClusterEngine
from mistral_eval.engines.cluster.ray_pool import check_ray
from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.engines.native import NativeEngine
from mistral_eval.errors import CheckpointError, EngineError
from mistral_eval.settings import RunSettings

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="needs Ray, which `make ray-test` installs")
cluster_utils = pytest.importorskip("ray.cluster_utils")

ROOT = Path(__file__).resolve().parents[3]
SAMPLED = GenerationSettings(until=("\n\n",), max_tokens=24, temperature=0.7)


def no_gold(request, right):
    raise AssertionError(request)


def requests_of(kind):
    if kind == "score":
        return [
            Request("piqa", n // 2, n % 2, 0, "score", f"Question {n // 6}: {n // 2}?", f" yes {n}")
            for n in range(60)
        ]
    return [
        Request("gsm8k", n, 0, k, "generate", f"Question: {n} and {n}?\nAnswer:", "", SAMPLED)
        for n in range(12)
        for k in range(4)
    ]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of two CPUs each; no figures of use leave the machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    found.add_node(num_cpus=2)
    found.wait_for_nodes()
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def settings(cluster):
    return RunSettings(
        tasks=("piqa",),
        model="tiny",
        engine="native",
        device="cpu",
        workers=f"ray://{cluster.address}",
    )


@pytest.fixture(scope="module")
def alone():
    engine = NativeEngine.open(
        RunSettings(tasks=("piqa",), model="tiny", device="cpu"), no_gold, lambda _: None
    )
    return {kind: answers(engine, requests_of(kind)) for kind in ("score", "generate")}


def answers(engine, requests):
    return dict(engine.answer([engine.encode(request) for request in requests]))


def same(found, expected):
    assert found.keys() == expected.keys()
    for n, reply in expected.items():
        assert (found[n].text, found[n].ids, found[n].is_greedy) == (
            reply.text,
            reply.ids,
            reply.is_greedy,
        )
        assert found[n].logprob == pytest.approx(reply.logprob, abs=1e-5)


def actors():
    """The processes of the cluster's actors."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = status.read_text(errors="replace")
        except OSError:
            continue
        if text.startswith("ray::RayWorker"):
            found.append(int(status.parent.name))
    return found


def test_replies_are_those_of_one_process_whatever_dies(cluster, settings, alone):
    said = []
    engine = ClusterEngine.open(settings, no_gold, said.append)
    rng = random.Random(0)
    try:
        assert engine._team.pool.size == 4
        for kind in ("score", "generate"):
            same(answers(engine, requests_of(kind)), alone[kind])
        kills = 0
        while kills < 5:
            requests = requests_of("generate")
            found = {}
            for n, reply in engine.answer([engine.encode(request) for request in requests]):
                assert n not in found
                found[n] = reply
                if rng.random() < 0.1 and (pids := actors()):
                    kills += 1
                    os.kill(rng.choice(pids), signal.SIGKILL)
            same(found, alone["generate"])
        node = cluster.worker_nodes.copy().pop()
        requests, found = requests_of("generate"), {}
        for n, reply in engine.answer([engine.encode(request) for request in requests]):
            if not found:
                cluster.remove_node(node, allow_graceful=False)
            assert n not in found
            found[n] = reply
        same(found, alone["generate"])
    finally:
        engine.close()
    assert any("another one takes its place" in line for line in said)


def test_a_model_that_cannot_be_opened_is_said(settings, tmp_path):
    with pytest.raises(CheckpointError, match="config"):
        ClusterEngine.open(
            settings.model_copy(update={"model": str(tmp_path)}), no_gold, lambda _: None
        )


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_said(address):
    settings = RunSettings(tasks=("piqa",), model="tiny", device="cpu", workers=f"ray://{address}")
    with pytest.raises(EngineError, match="cannot be reached"):
        ClusterEngine.open(settings, no_gold, lambda _: None)


def test_a_head_node_that_asks_for_a_token_is_said(tmp_path):
    """It listens, so the sentence names the token and not a cluster that is absent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    head = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}",
         "--num-cpus=1", "--include-dashboard=false"],
        env={**quiet, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert any("runtime started" in line for line in head.stdout)
        ran = subprocess.run(
            [sys.executable, "-m", "mistral_eval", "run", "--tasks=piqa", "--model=tiny",
             "--data=sample", f"--workers=ray://127.0.0.1:{port}", f"--output-path={tmp_path}"],
            env={**quiet, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        head.terminate()
        head.communicate(timeout=60)
    assert ran.returncode == 1
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the head node's" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_actors_that_ray_kills_for_lack_of_memory_are_dead_ones(settings):
    limits = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 200}
    full = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": limits},
    )
    try:
        there = settings.model_copy(update={"workers": f"ray://{full.address}"})
        with pytest.raises(EngineError, match="killed due to the node running low on memory"):
            ClusterEngine.open(there, no_gold, lambda _: None)
    finally:
        full.shutdown()


def test_ray_is_installed():
    check_ray()
