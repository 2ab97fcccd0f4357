"""A container as the outer wall of one sandboxed process: the harness's side of it."""

import os
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .container_cli import (
    CONTROL,
    PATIENCE,
    Wall,
    find_engine,
    import_root,
    prepare_root,
    run_command,
)

_START_SECONDS = 120.0
_END_SECONDS = 5.0


class Container:
    """The host's side of one container: its root, and the door where its process is met."""

    def __init__(self, kind: str, wall: Wall) -> None:
        """Prepares everything; nothing runs yet.

        Raises:
            SandboxError: The engine does not work here.
        """
        self._engine = find_engine(kind)
        import_root(self._engine)
        self._folder = tempfile.TemporaryDirectory(prefix="mistral-eval-")
        self._name = f"mistral-eval-{secrets.token_hex(8)}"
        folder = Path(self._folder.name)
        prepare_root(folder)
        self.command = run_command(self._engine, self._name, folder, wall)
        self._door = socket.socket(socket.AF_UNIX)
        self._door_path = folder / "control" / Path(CONTROL).name
        _bind(self._door, self._door_path)
        self._door_path.chmod(0o777)  # the folder around it is this user's alone
        self._door.listen(1)
        self._door.settimeout(0.1)

    @property
    def unbounded(self) -> tuple[str, ...]:
        """What the engine cannot limit, in words."""
        return () if self._engine.bounded else ("the container's limits on memory and processes",)

    def hand_over(self, descriptor: int, process: subprocess.Popen[bytes]) -> bool:
        """Gives the process inside its end of the control socket, then closes the door for good.

        Returns:
            Whether it came; it does not if the engine ends before, or if time is up.
        """
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                guest, _ = self._door.accept()
            except TimeoutError:
                continue
            with guest:
                socket.send_fds(guest, [b"\0"], [descriptor])
            self._close_door()
            return True
        return False

    def close(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the container; its control socket must be closed, on which it ends by itself."""
        self._close_door()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            command = [self._engine.kind, *self._engine.options, "kill", self._name]
            subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)  # noqa: S603
        process.kill()
        process.wait()
        self._folder.cleanup()

    def _close_door(self) -> None:
        self._door.close()
        self._door_path.unlink(missing_ok=True)


def _bind(door: socket.socket, path: Path) -> None:
    """Binds to a path of any length: a socket's own address has room for 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    door.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
