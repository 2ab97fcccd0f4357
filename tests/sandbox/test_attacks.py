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
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mistral_eval.answers.programs import Program
from mistral_eval.sandbox import Limits, ProgramResult
from mistral_eval.sandbox.backends import Setup
from mistral_eval.sandbox.run import judge_all

pytestmark = pytest.mark.sandbox

ATTACKS = {
    path.name.removesuffix(".py.txt"): path
    for path in sorted(Path(__file__).parent.glob("attacks/*"))
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


@dataclass
class Battle:
    """How the attacks, and the programs between them, came out."""

    outside: Outside
    results: dict[str, ProgramResult]
    neighbours: list[ProgramResult]
    left_behind: list[str]


def fight(names, kind, interpreter, living, without=()):
    """Judges the named attacks, with a correct program after each; yields a Battle."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        outside = Outside(Path(folder))
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
        judged = sorted(judge_all(programs, Setup(kind, interpreter, limits, without), 6))
        results = [result for _, result in judged]
        attacks = dict(zip(names, results[::2], strict=True))
        yield Battle(outside, attacks, results[1::2], living(size))
        outside.close()


@pytest.fixture(scope="module")
def battle(isolation, interpreter, living):
    yield from fight(list(ATTACKS), isolation.kind, interpreter, living)


@pytest.fixture(scope="module")
def battle_in_namespaces_alone(isolation, interpreter, living):
    """Without seccomp and landlock; without the bombs, which only they stop for root.

    Nor with attacks that merely last: they are the same without the other layers.
    """
    waiting = ("bomb", "endless", "loop", "slow", "deep", "flood", "laughs")
    names = [name for name in ATTACKS if not any(word in name for word in waiting)]
    yield from fight(names, isolation.kind, interpreter, living, ("seccomp", "landlock"))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_pass_and_changes_nothing(battle, name):
    """The verdict is one that the attack's second line names; its folder is as it was."""
    expected = re.search("# expected: (.*)", ATTACKS[name].read_text(encoding="utf-8"))[1].split()
    result = battle.results[name]

    assert "passed" not in expected
    assert result.status in expected, result
    assert battle.outside.secret not in result.detail.split("; first failing check")[0]
    assert name not in battle.outside.changed()


def test_every_program_beside_an_attack_gets_its_right_verdict(battle):
    assert {"passed"} == {str(result.status) for result in battle.neighbours}


def test_no_attack_reaches_a_server_or_a_process_of_the_host(battle):
    assert battle.outside.visitors() == []
    assert battle.outside.bystander.poll() is None


def test_no_attack_leaves_a_file_or_a_process_behind(battle):
    assert battle.outside.traces() == []
    assert battle.left_behind == []


@pytest.mark.slow
def test_namespaces_hold_without_seccomp_and_landlock(battle_in_namespaces_alone):
    """Each layer holds alone: nothing passes, nothing changes, neighbours are judged rightly."""
    battle = battle_in_namespaces_alone
    outside = battle.outside

    assert [name for name, result in battle.results.items() if result.status == "passed"] == []
    assert {"passed"} == {str(result.status) for result in battle.neighbours}
    assert (outside.changed(), outside.visitors(), outside.traces()) == ([], [], [])
    assert outside.bystander.poll() is None
    assert battle.left_behind == []
