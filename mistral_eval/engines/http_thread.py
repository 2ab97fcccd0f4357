"""Do many jobs at a server at the same time, in a thread of their own.

`replies_of` yields each outcome as it arrives, so that the requests go on while the caller works.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from mistral_eval.engines.endpoint import Endpoint
from mistral_eval.engines.http_client import Client
from mistral_eval.errors import EngineError
from mistral_eval.native.requests import Stop, never

POLL_SECONDS: Final = 0.1
WAITING: Final = 4096  # outcomes that may wait for the caller, so that memory is bounded
Outcome = TypeVar("Outcome")
Job: TypeAlias = Callable[[Client], Awaitable[Outcome]]


def replies_of(
    endpoint: Endpoint,
    jobs: Iterable[tuple[int, Job[Outcome]]],
    stop: Stop = never,
) -> Iterator[tuple[int, Outcome | EngineError]]:
    """Do jobs at an endpoint, `endpoint.in_flight` at a time; yield each outcome as it arrives.

    The requests run in a thread of their own, so that they go on while the caller works. If the
    caller closes the generator, those in flight are cancelled.

    Args:
        endpoint: the server.
        jobs: an index and a coroutine function, which asks the client and returns the outcome;
            taken one by one, in the thread.
        stop: asked in the caller's thread, at each outcome and several times a second; once True,
            jobs in flight end, no request is repeated and no other begins.

    Yields:
        The job's index, and its outcome or the EngineError that it raised.
    """
    thread = _Thread(endpoint, jobs)
    thread.start()
    try:
        while True:
            if stop():
                thread.interrupt()
            try:
                item = thread.done.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if item is None:
                break
            yield item
    finally:
        thread.end()
    if thread.fault is not None:
        raise thread.fault


def post_all(
    endpoint: Endpoint, path: str, bodies: Iterable[Mapping[str, Any]], stop: Stop = never
) -> Iterator[tuple[int, Any]]:
    """Post JSON objects to one path; yield (index, the reply's JSON or an EngineError)."""

    def job(body: Mapping[str, Any]) -> Job[Any]:
        return lambda client: client.post(path, body)

    yield from replies_of(endpoint, ((n, job(body)) for n, body in enumerate(bodies)), stop)


def call(endpoint: Endpoint, job: Job[Outcome]) -> Outcome:
    """Do one job and return its outcome.

    Raises:
        EngineError: the job raised it.
    """
    ((_, outcome),) = replies_of(endpoint, [(0, job)])
    if isinstance(outcome, EngineError):
        raise outcome
    return outcome


class _Thread(threading.Thread):
    """Runs jobs in an event loop; their outcomes arrive in `done`, None at the end."""

    def __init__(self, endpoint: Endpoint, jobs: Iterable[tuple[int, Job[Any]]]) -> None:
        super().__init__(name="requests", daemon=True)
        self.done: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()
        self.fault: BaseException | None = None
        self._endpoint = endpoint
        self._jobs = iter(jobs)
        self._interrupted = False
        self._loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def run(self) -> None:
        """Run all jobs; keep an error that is a bug for the caller's thread."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            self.fault = group.exceptions[0]
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            self.fault = error
        finally:
            self.done.put(None)  # the caller waits for it

    def interrupt(self) -> None:
        """Begin no further job, and let no request be repeated any more."""
        self._interrupted = True
        if self._client is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._client.interrupt)

    def end(self) -> None:
        """Cancel what is in flight and wait for the thread."""
        self._ended = True
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()

    async def _all(self) -> None:
        self._task = asyncio.current_task()
        if self._ended:
            return
        async with Client(self._endpoint) as self._client, asyncio.TaskGroup() as group:
            for _ in range(self._endpoint.in_flight):
                group.create_task(self._work(self._client))

    async def _work(self, client: Client) -> None:
        """Take jobs until there is none, or the caller wants to stop."""
        while not self._interrupted:
            index, job = next(self._jobs, (0, None))
            if job is None:
                return
            try:
                outcome = await job(client)
            except EngineError as error:
                outcome = error
            self.done.put((index, outcome))
            await self._let_caller_catch_up()

    async def _let_caller_catch_up(self) -> None:
        while self.done.qsize() > WAITING and not self._ended:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(POLL_SECONDS)
