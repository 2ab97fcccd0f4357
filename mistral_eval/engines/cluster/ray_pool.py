"""Workers on a Ray cluster: one actor per GPU, or per core where there are none.

An actor is never restarted by Ray (max_restarts=0): it would come back without its model. The
driver starts another one, which opens the engine again. A job's call is not retried by Ray either:
the driver knows which of its requests were answered.
"""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, Final

from mistral_eval.engines.cluster.worker_messages import (
    Checked,
    Died,
    Done,
    Event,
    Job,
    Opened,
    Question,
    Refused,
    Said,
)
from mistral_eval.engines.interface import Say
from mistral_eval.errors import EngineError, MistralEvalError
from mistral_eval.settings import AUTO, RAY_PREFIX, RunSettings

CONNECT_SECONDS: Final = 10.0
# Where the cause stands in Ray 2.60's messages, the more telling first.
_CAUSES: Final = (
    re.compile(r"(The actor died because its node has died)"),
    re.compile(r"Worker exit detail: (.*?)(?: Some common causes|\. There are|$)"),
    re.compile(r"(The actor is dead because .*?)(?:\. |$)"),
    re.compile(r"(killed due to the node running low on memory)"),
)


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        EngineError: it is not.
    """
    if find_spec("ray") is None:
        raise EngineError(
            "--workers ray://… needs Ray, which is not installed. Install it with pip install "
            '"mistral-eval[ray]", or give --workers a number for processes on this machine.'
        )


class RayWorker:
    """The actor: a worker whose events are the items that its calls yield."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._is_told = False

    def open(self, settings: RunSettings) -> Iterator[Event]:
        """Open the engine; yield what it says, and at last `Opened` or `Refused`."""
        import torch

        torch.set_num_threads(1)  # an actor has one core
        from mistral_eval.engines.cluster.worker import Worker

        said: list[str] = []
        try:
            self._worker = Worker(settings, said.append)
        except MistralEvalError as error:
            yield Refused(type(error), str(error))
            return
        for text in said:  # not `yield from`: Ray sends values into the generator
            yield Said(text)
        yield self._worker.opened()

    def do(self, asked: Job | Question) -> Iterator[Event]:
        """Answer a job or a question; yield the events as they come.

        The worker computes in a thread of its own, so that each event leaves at once. An error that
        it does not foresee is raised here, and Ray tells the driver.
        """
        self._is_told = False
        events: SimpleQueue[Event | None] = SimpleQueue()

        def work() -> bool:
            try:
                goes_on: bool = self._worker.do(asked, events.put, lambda: self._is_told)
            finally:
                events.put(None)
            return goes_on

        with ThreadPoolExecutor(1) as threads:
            goes_on = threads.submit(work)
            while (event := events.get()) is not None:
                yield event
        if not goes_on.result():
            import ray

            ray.actor.exit_actor()

    def stop(self) -> None:
        """End the job after the forward pass in flight."""
        self._is_told = True


class RayPool:
    """Workers on a Ray cluster.

    Args:
        settings: `workers` is `ray://ADDRESS`, where ADDRESS is auto (the cluster of this machine)
            or HOST:PORT of the head node; `/N` behind it limits the number of workers.
        say: receives messages.

    Raises:
        EngineError: the cluster cannot be reached, or has nothing to compute with.
    """

    def __init__(self, settings: RunSettings, say: Say) -> None:
        import ray

        self._ray = ray
        address, _, limit = (settings.workers or "").removeprefix(RAY_PREFIX).partition("/")
        self._connects = not ray.is_initialized()
        if self._connects:
            what_to_do = "Start it with `ray start --head`, or give the address that it printed."
            try:
                _connect(address)
                what_to_do = (
                    "If its head node asks for a token (by default, off the loopback), set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the head node's; otherwise give the "
                    "address that `ray start --head` printed."
                )
                ray.init(address, log_to_driver=False, logging_level="error")
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                first = str(error).partition("\n")[0]
                raise EngineError(
                    f"The Ray cluster {address} cannot be reached ({first}). {what_to_do}"
                ) from error
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        uses_gpus = bool(gpus) and settings.device != "cpu"
        self.size = gpus if uses_gpus else cpus
        if limit:
            self.size = min(self.size, int(limit))
        if self.size < 1:
            raise EngineError(
                f"The Ray cluster {address} has {gpus} GPUs and {cpus} CPUs. Start its nodes with "
                "`ray start --address ... --num-cpus N`."
            )
        nodes = sum(node["Alive"] for node in ray.nodes())
        what = "GPU" if uses_gpus else "CPU"
        say(f"Ray cluster of {nodes} nodes: starting {self.size} workers, each with one {what}.")
        needs = {"num_gpus": 1, "num_cpus": 0} if uses_gpus else {"num_cpus": 1}
        self._actor = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2, **needs)(
            RayWorker
        )
        self._actors: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def start(self, seat: int, settings: RunSettings) -> None:
        """Start an actor and let it open the engine."""
        actor = self._actor.remote()
        self._actors[seat] = actor
        stream = actor.open.options(num_returns="streaming")
        self._streams[seat] = stream.remote(settings)

    def give(self, seat: int, asked: Job | Question) -> None:
        """Send a worker its next job."""
        stream = self._actors[seat].do.options(num_returns="streaming")
        self._streams[seat] = stream.remote(asked)

    def stop(self, seat: int) -> None:
        """Tell a worker to end its job after the forward pass in flight."""
        self._actors[seat].stop.remote()

    def kill(self, seat: int) -> None:
        """End a worker at once."""
        self._streams.pop(seat, None)
        if (actor := self._actors.pop(seat, None)) is not None:
            self._ray.kill(actor, no_restart=True)

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return what workers have said."""
        seats = {stream: seat for seat, stream in self._streams.items()}
        if not seats:
            return []
        ready, _ = self._ray.wait(list(seats), num_returns=len(seats), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = self._ray.wait(list(seats), timeout=seconds, fetch_local=False)
        events: list[tuple[int, Event]] = []
        for stream in ready:
            events += self._next(seats[stream], stream)
        return events

    def close(self) -> None:
        """End all workers, and leave the cluster."""
        for seat in list(self._actors):
            self.kill(seat)
        if self._connects:
            self._ray.shutdown()

    def _next(self, seat: int, stream: Any) -> list[tuple[int, Event]]:
        """Return the next event of a call, if it is not at its end."""
        try:
            event: Event = self._ray.get(next(stream))
        except StopIteration:
            if self._streams.get(seat) is stream:
                del self._streams[seat]
            return []
        except self._ray.exceptions.RayError as error:  # also where Ray is short of memory
            self._streams.pop(seat, None)
            self._actors.pop(seat, None)
            return [(seat, Died(f"({cause_of(str(error))})"))]
        if isinstance(event, Done | Opened | Checked | Died | Refused):  # the call's last event
            del self._streams[seat]
        if isinstance(event, Died | Refused):
            del self._actors[seat]  # it ends by itself
        return [(seat, event)]


def _connect(address: str) -> None:
    """Try the head node's port, since Ray itself waits for minutes where nobody listens.

    Raises:
        OSError: nobody does.
        ValueError: the address is not HOST:PORT.
    """
    if address == AUTO:
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"expected auto or HOST:PORT, found {address}")
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def cause_of(said: str) -> str:
    """Return the cause in Ray's message about a dead actor, in one line."""
    text = " ".join(said.split())
    for pattern in _CAUSES:
        if match := pattern.search(text):
            return match[1].rstrip(".")
    return said.strip().rpartition("\n")[2][:200]  # of a traceback
