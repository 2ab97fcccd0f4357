"""The twelve benchmarks on a real Ray cluster of two nodes: the replies of one process."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.record.replies import Replies
from mistral_eval.record.run_record import read_run
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import parse_tasks

pytestmark = pytest.mark.ray
pytest.importorskip("ray", reason="needs Ray, which `make ray-test` installs")
cluster_utils = pytest.importorskip("ray.cluster_utils")
ROOT = Path(__file__).resolve().parents[2]
QUIET = Talk(quiet=True)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of two CPUs each; no figures of use leave the machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    head = {"num_cpus": 2, "include_dashboard": False}
    found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    found.add_node(num_cpus=2)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def settings(output, model, limit, **more):
    return RunSettings(
        tasks=parse_tasks("paper"),
        model=str(model),
        data="sample",
        limit=limit,
        device="cpu",
        dtype="float32",
        output_path=output,
        unsafe_code=True,
        **more,
    )


def replies_of(folder):
    log = Replies(folder)
    return log.lookup(list(log._places))


def check(one, many, relative=1e-6):
    """Compare replies: texts and ids as they are, log-likelihoods to 1e-5 or `relative`."""
    assert one.keys() == many.keys()
    for key, reply in one.items():
        if "text" in reply:
            assert many[key] == reply
        else:
            expected = pytest.approx(reply["logprob"], abs=1e-5, rel=relative)
            assert many[key]["logprob"] == expected
            assert many[key]["is_greedy"] == reply["is_greedy"]


def test_tiny(cluster, tmp_path):
    alone = run_suite(settings(tmp_path / "alone", "tiny", 2), QUIET)
    address = f"ray://{cluster.address}"
    spread = run_suite(settings(tmp_path / "spread", "tiny", 2, workers=address), QUIET)
    check(replies_of(alone), replies_of(spread))
    assert (spread / "table.md").read_text() == (alone / "table.md").read_text()


def test_tiny_while_workers_and_a_node_are_killed(cluster, tmp_path):
    """20 kills, all while a quarter of the replies is missing.

    Later ones would hit the same few requests, and one over which three workers die is left out.
    """
    alone = run_suite(settings(tmp_path / "alone", "tiny", 16), QUIET)
    expected = replies_of(alone)
    ended = threading.Event()
    rng = random.Random(1)
    kills = []

    def kill():
        before = 0  # replies: each life gets something done
        while len(kills) < 20 and not ended.wait(rng.uniform(0.1, 0.5)):
            files = (tmp_path / "spread").rglob("*.jsonl")
            logged = sum(file.read_bytes().count(b"\n") for file in files)
            if logged > len(expected) * 3 / 4:
                return
            pids = actors()
            if logged == before or not pids:
                continue
            before = logged
            if len(kills) == 3:
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                kills.append("node")
            else:
                kills.append(rng.choice(pids))
                os.kill(kills[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        address = f"ray://{cluster.address}"
        spread = run_suite(settings(tmp_path / "spread", "tiny", 16, workers=address), QUIET)
    finally:
        ended.set()
        killer.join()
    assert len(kills) >= 10
    assert "node" in kills
    check(expected, replies_of(spread))
    counts = read_run(spread)["counts"]
    assert counts["computed"] == read_run(alone)["counts"]["computed"]  # each reply once


def actors():
    """The processes of the cluster's actors."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_text(errors="replace").startswith("ray::RayWorker"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.trained
def test_trained(cluster, trained, tmp_path):
    alone = run_suite(settings(tmp_path / "alone", trained, 1), QUIET)
    address = f"ray://{cluster.address}"
    spread = run_suite(settings(tmp_path / "spread", trained, 1, workers=address), QUIET)
    # of sums of up to some hundred nats in float32, computed in other batches
    check(replies_of(alone), replies_of(spread), relative=1e-5)
