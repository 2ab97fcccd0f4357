"""Podman and docker: what is run, what is said where it cannot be, and that nothing is pulled."""

import io
import itertools
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Limits, containers, probe
from mistral_eval.sandbox.containers import (
    Container,
    ContainerRuntime,
    Contents,
    find_runtime,
    image_name,
    run_command,
)
from mistral_eval.sandbox.interpreter import Interpreter
from mistral_eval.sandbox.isolation import try_kind

PYTHON = Interpreter(
    "/usr/bin/python3",
    {"/usr/lib/python3": "/usr/lib/python3", "/usr/bin/python3": "/opt/a,b/python"},
    ("/usr/lib/python3/site-packages",),
    "/usr/lib",
)
LIMITS = Limits(memory_bytes=1 << 30, scratch_bytes=16 << 20)
CONTENTS = Contents(PYTHON, PYTHON.files, {"PYTHONHASHSEED": "0"}, LIMITS)
GOOD = Program("p", "def f(): return 1", checks=("assert f() == 1",), names=("f",))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a shell script in an runtime's place: its body is given, each call goes to `calls`."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.touch()
    find_runtime.cache_clear()

    def make(name: str, body: str) -> Path:
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return calls

    yield make
    find_runtime.cache_clear()


@pytest.fixture
def short_path():
    """A folder whose path has fewer than the 50 characters that podman's own state may have."""
    with tempfile.TemporaryDirectory() as name:
        yield name


def options(command: list[str]) -> dict[str, list[str]]:
    """Each option's values."""
    found: dict[str, list[str]] = {}
    for word, after in itertools.pairwise(command):
        if word.startswith("--"):
            found.setdefault(word, []).append(after)
    return found


class TestCommand:
    @pytest.mark.parametrize("kind", ["docker", "podman"])
    def test_the_container_has_no_network_no_privilege_and_nothing_to_write(self, kind):
        command = run_command(ContainerRuntime(kind), "name", Path("/run/x"), CONTENTS)
        given = options(command)

        assert command[:2] == [kind, "run"]
        assert given["--network"] == ["none"]
        assert given["--ipc"] == ["none"]
        assert given["--cap-drop"] == ["all"]
        assert given["--security-opt"] == ["no-new-privileges", "label=disable"]
        assert {"--rm", "--read-only"} <= set(command)
        assert "--privileged" not in command
        assert "--cap-add" not in command
        assert all(mount.endswith((",readonly", ',readonly"')) for mount in given["--mount"])

    @pytest.mark.parametrize("kind", ["docker", "podman"])
    def test_memory_processes_files_and_scratch_are_limited(self, kind):
        given = options(run_command(ContainerRuntime(kind), "name", Path("/run/x"), CONTENTS))
        memory = str((1 << 30) + (16 << 20) + (256 << 20))

        assert (given["--memory"], given["--memory-swap"]) == ([memory], [memory])
        assert given["--pids-limit"] == ["16"]
        assert given["--ulimit"] == ["nofile=256:256", "nproc=256:256", "core=0:0"]
        (scratch,) = given["--tmpfs"]
        assert scratch.startswith("/tmp:rw,nosuid,nodev,noexec,size=16777216")

    def test_the_hosts_interpreter_is_mounted_and_its_site_packages_are_covered(self):
        mounts = options(run_command(ContainerRuntime("docker"), "n", Path("/run/x"), CONTENTS))[
            "--mount"
        ]

        assert mounts == [
            "type=bind,source=/usr/lib/python3,target=/usr/lib/python3,readonly",
            'type=bind,"source=/opt/a,b/python",target=/usr/bin/python3,readonly',
            "type=bind,source=/run/x/control,target=/control,readonly",
            "type=bind,source=/run/x/empty,target=/usr/lib/python3/site-packages,readonly",
        ]

    def test_docker_runs_as_nobody_from_an_image_that_it_may_not_pull(self):
        command = run_command(ContainerRuntime("docker"), "n", Path("/run/x"), CONTENTS)

        assert command[-3:] == ["--pull", "never", image_name()]
        assert options(command)["--user"] == ["65534:65534"]

    def test_podman_runs_from_a_folder(self):
        command = run_command(
            ContainerRuntime("podman", ("--runtime", "runc")), "n", Path("/run/x"), CONTENTS
        )

        assert command[:4] == ["podman", "--runtime", "runc", "run"]
        assert command[-2:] == ["--rootfs", "/run/x/root"]

    def test_without_control_groups_podman_is_asked_for_no_limits(self):
        command = run_command(
            ContainerRuntime("podman", sets_limits=False), "n", Path("/run/x"), CONTENTS
        )

        assert "--cgroups=disabled" in command
        assert not {"--memory", "--pids-limit"} & set(command)

    def test_the_image_is_one_empty_folder_and_its_name_is_its_content(self):
        with tarfile.open(fileobj=io.BytesIO(containers._empty_root())) as archive:
            assert [(entry.name, entry.mode) for entry in archive] == [("tmp", 0o1777)]
        assert image_name() == image_name()
        assert image_name().startswith("mistral-eval-sandbox:")


class TestErrors:
    def test_a_runtime_that_is_not_installed(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        for kind, advice in (("podman", "apt-get install podman"), ("docker", "Docker Engine")):
            find_runtime.cache_clear()
            with pytest.raises(SandboxError, match=f"{kind} is not installed; .*{advice}"):
                probe(kind)

    def test_dockers_daemon_that_does_not_answer(self, fake):
        fake("docker", 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
        with pytest.raises(SandboxError) as caught:
            probe("docker")

        message = str(caught.value)
        assert message.startswith("--sandbox docker was asked for, but")
        assert "Cannot connect to the Docker daemon" in message
        assert "systemctl start docker" in message
        assert "--sandbox auto" in message

    def test_podman_that_starts_nothing_says_each_reason_once(self, fake):
        body = (
            'case "$*" in *cgroups=disabled*) echo "no way" >&2;; *) echo "no cgroups" >&2;; esac'
        )
        calls = fake("podman", f"{body}; exit 125")
        with pytest.raises(
            SandboxError, match=r"podman failed: no cgroups; then podman failed: no"
        ):
            probe("podman")
        assert "--cgroups=disabled" in calls.read_text()

    def test_podman_that_has_no_control_groups_is_used_without(self, fake):
        fake("podman", 'case "$*" in *cgroups=disabled*) exit 0;; esac; exit 125')

        assert find_runtime("podman") == ContainerRuntime("podman", sets_limits=False)

    @pytest.mark.parametrize(
        ("said", "limited"),
        [("1358954496\\n16", True), ("max\\n16", False), ("1358954496\\nmax", False), ("", False)],
    )
    def test_limits_that_the_runtime_ignored_are_not_claimed(self, fake, said, limited):
        fake("podman", f"printf '{said}'")

        assert find_runtime("podman").limited is limited

    def test_a_container_that_ends_at_once(self, fake):
        """The runtime answers, but the container's process never connects."""
        fake("docker", 'case "$*" in *guest.*) echo "no such mount" >&2; exit 125;; esac')
        with pytest.raises(SandboxError, match="the container did not start: no such mount"):
            probe("docker")


def test_docker_is_given_the_root_once(fake):
    """The image is looked for before each start, and imported only where it is missing."""
    body = """case "$1 $2" in
"image inspect") test -e $0.image;;
"import -") cat > $0.image;;
esac"""
    calls = fake("docker", body)
    for _ in range(2):
        Container("docker", CONTENTS).close(subprocess.Popen(["true"]))
    seen = [line for line in calls.read_text().splitlines() if line.startswith("im")]

    assert seen == [
        f"image inspect {image_name()}",
        f"import - {image_name()}",
        *[f"image inspect {image_name()}"] * 2,
    ]


@pytest.mark.sandbox
def test_dockers_command_line_works_where_podman_runs_it(fake, short_path, interpreter, run_under):
    """Podman understands docker's command line, but for two options of a tmpfs."""
    podman = shutil.which("podman")
    if podman is None:
        pytest.skip("no podman here")
    try:
        runtime = find_runtime("podman")
    except SandboxError as error:
        pytest.skip(f"no podman here: {error}")
    places = f"--root {short_path}/images --runroot {short_path}/run --storage-driver vfs"
    translated = f"""
test "$1" = version && exit 0
for word; do
    shift
    set -- "$@" "$(echo "$word" | sed 's/,mode=0700,uid=65534,gid=65534,nr_inodes=1024//')"
done
exec {podman} {" ".join(runtime.options)} {places} "$@"
"""
    fake("docker", translated)
    isolation = probe("docker")
    results = run_under([GOOD, GOOD], isolation, workers=1)

    assert (isolation.kind, [str(result.status) for result in results]) == (
        "docker",
        ["passed", "passed"],
    )
    assert try_kind("docker", interpreter) == isolation.missing
