"""Each program in attacks/ tries to pass without solving its task, or to reach out of its sandbox.

For each, two things are shown: the verdict is not `passed`, and nothing outside has changed.
Between any two attacks runs a correct program, which must pass.
"""

import re
import secrets
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.sandbox import Limits
from mistral_eval.sandbox.launch import Setup
from mistral_eval.sandbox.pool import run_all

pytestmark = pytest.mark.sandbox

ATTACKS = {
    path.name.removesuffix(".py.txt"): path
    for path in sorted(Path(__file__).parent.glob("attacks/*"))
}
REACHING_OUT = {
    *("always_equal", "background_process", "chroot_escape", "dns", "environment", "file_walk"),
    *("kill_parent", "memory_walk", "mounts", "nested_namespaces", "other_sockets", "proc_walk"),
    *("own_privileges", "ptrace", "signal_handlers", "subprocesses", "symlinks", "tcp", "udp"),
    *("unix_datagrams", "unix_sockets", "write_everywhere", "write_outside", "zygote"),
}
NEIGHBOUR = Program(
    "neighbour",
    "def square(n):\n    return n * n\n",
    checks=("assert [square(n) for n in range(5)] == [0, 1, 4, 9, 16]",),
    names=("square",),
)


@dataclass
class Outside:
    """A part of the host that the attacks try to read, to change or to reach."""

    folder: Path
    secret: str = field(default_factory=lambda: f"secret-{secrets.token_hex(16)}")
    marker: str = field(default_factory=lambda: f"marker-{secrets.token_hex(8)}")

    def __post_init__(self):
        for name in ATTACKS:
            (self.folder / name).mkdir()
            (self.folder / name / "tests.txt").write_text(self.secret)
        self.bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        self.listeners = [
            self.bind(socket.AF_INET, stream, ("127.0.0.1", 0)),
            self.bind(socket.AF_UNIX, stream, str(self.folder / "socket")),
            self.bind(socket.AF_UNIX, stream, f"\0{self.marker}"),
        ]
        self.port = self.listeners[0].getsockname()[1]
        self.receivers = [
            self.bind(socket.AF_INET, datagram, ("127.0.0.1", self.port)),
            self.bind(socket.AF_UNIX, datagram, str(self.folder / "datagrams")),
            self.bind(socket.AF_UNIX, datagram, f"\0{self.marker}d"),
        ]

    @staticmethod
    def bind(family, kind, address):
        server = socket.socket(family, kind)
        server.bind(address)
        server.setblocking(False)
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server

    def fill(self, name: str) -> str:
        """An attack's source, with this host's paths and numbers in it."""
        source = ATTACKS[name].read_text(encoding="utf-8")
        for sockets in ("socket", "datagrams"):
            source = source.replace(f"__CANARY__/{sockets}", str(self.folder / sockets))
        places = {
            "__CANARY__": str(self.folder / name),
            "__MARKER__": self.marker,
            "__PORT__": str(self.port),
            "__PID__": str(self.bystander.pid),
            "__NULL__": "\0",
        }
        for place, value in places.items():
            source = source.replace(place, value)
        return source

    def close(self):
        self.bystander.kill()
        self.bystander.wait()
        for server in self.listeners + self.receivers:
            server.close()

    def changed(self) -> list[str]:
        """The attacks whose folder is not as it was."""
        return [
            name
            for name in ATTACKS
            if [path.name for path in (self.folder / name).iterdir()] != ["tests.txt"]
            or (self.folder / name / "tests.txt").read_text() != self.secret
        ]

    def visitors(self) -> list[str]:
        """Which of the servers were reached."""
        reached = []
        for server, receive in [(s, s.accept) for s in self.listeners] + [
            (s, lambda s=s: s.recv(1)) for s in self.receivers
        ]:
            try:
                receive()
            except BlockingIOError:
                continue
            reached.append(str(server))
        return reached

    def traces(self) -> list[str]:
        """Files that carry the marker in places where a program might leave one."""
        places = ["/", "/tmp", "/var/tmp", "/dev/shm", str(Path.home()), "/usr", "/lib", "/etc"]
        return [place for place in places if (Path(place) / self.marker).exists()]


def fight(names, kind, interpreter, living, without=()):
    """Runs the named attacks, with a correct program after each; says how it came out."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Outside(Path(folder))) as outside,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MISTRAL_EVAL_TEST", outside.secret)
        check = f"assert solve(3) == {outside.secret!r}"
        programs = []
        for name in names:
            programs.append(Program(name, outside.fill(name), checks=(check,), names=("solve",)))
            programs.append(NEIGHBOUR)
        # The odd size stands on the command line of every process of this sandbox.
        size = (4 << 20) + secrets.randbelow(1 << 20)
        limits = Limits(
            cpu_seconds=1, wall_seconds=2, grace_seconds=1, memory_bytes=1 << 28, scratch_bytes=size
        )
        run = sorted(run_all(programs, Setup(kind, interpreter, limits, without), 6))
        results = [(str(result.status), result.detail) for _, result in run]
        return {
            "secret": outside.secret,
            "attacks": dict(zip(names, results[::2], strict=True)),
            "neighbours": [status for status, _ in results[1::2]],
            "left behind": living(size),
            "changed": outside.changed(),
            "visitors": outside.visitors(),
            "traces": outside.traces(),
            "bystander": outside.bystander.poll(),
        }


@pytest.fixture(scope="module")
def battle(isolation, interpreter, living, once):
    kind = isolation.kind
    return once(f"battle-{kind}", lambda: fight(list(ATTACKS), kind, interpreter, living))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_pass_and_changes_nothing(battle, name):
    """The verdict is one that the attack's second line names; its folder is as it was."""
    expected = re.search("# expected: (.*)", ATTACKS[name].read_text(encoding="utf-8"))[1].split()
    status, detail = battle["attacks"][name]

    assert "passed" not in expected
    assert status in expected, detail
    assert battle["secret"] not in detail.split("; first failing check")[0]
    assert name not in battle["changed"]


def test_every_program_beside_an_attack_gets_its_right_verdict(battle):
    assert {"passed"} == set(battle["neighbours"])


def test_no_attack_reaches_a_server_or_a_process_of_the_host(battle):
    assert battle["visitors"] == []
    assert battle["bystander"] is None


def test_no_attack_leaves_a_file_or_a_process_behind(battle):
    assert battle["traces"] == []
    assert battle["left behind"] == []


@pytest.mark.slow
def test_namespaces_hold_without_seccomp_and_landlock(isolation, interpreter, living):
    """Each layer holds alone: nothing passes, nothing changes, neighbours get their right results.

    The bombs are left out, which for root only the other layers stop, and the attacks that merely
    last, which are the same without them.
    """
    waiting = ("bomb", "endless", "loop", "slow", "deep", "flood", "laughs")
    names = [name for name in ATTACKS if not any(word in name for word in waiting)]
    if isolation.kind == "podman":  # a second for each, so only those that reach out
        names = [name for name in names if name in REACHING_OUT]
    battle = fight(names, isolation.kind, interpreter, living, ("seccomp", "landlock"))

    assert [name for name, (status, _) in battle["attacks"].items() if status == "passed"] == []
    assert {"passed"} == set(battle["neighbours"])
    places = ("changed", "visitors", "traces", "left behind")
    assert [battle[place] for place in places] == [[], [], [], []]
    assert battle["bystander"] is None
