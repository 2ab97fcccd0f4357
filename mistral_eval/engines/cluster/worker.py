"""What runs in a worker: an engine of its own, which answers one job after the other."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mistral_eval.engines.auto import no_gold, open_by_name
from mistral_eval.engines.cluster.worker_messages import (
    Alive,
    Answered,
    Checked,
    Died,
    Done,
    Event,
    Job,
    Opened,
    Question,
    Refused,
)
from mistral_eval.engines.interface import Reply, Say, Stop
from mistral_eval.errors import MistralEvalError, RequestError, UnansweredError
from mistral_eval.settings import RunSettings

SEND_SECONDS: Final = 0.2  # replies are sent together, at most so late
ALIVE_SECONDS: Final = 1.0

Send = Callable[[Event], None]


class Worker:
    """Opens the engine that the settings name, and answers jobs with it.

    Raises:
        MistralEvalError: the engine cannot be opened.
    """

    def __init__(self, settings: RunSettings, say: Say) -> None:
        self.engine = open_by_name(settings, no_gold, say)

    def opened(self) -> Opened:
        """Return what the driver has to know of the engine."""
        engine = self.engine
        place = f"{os.uname().nodename}, process {os.getpid()}"
        return Opened(engine.identity, engine.can, dict(engine.choices), engine.twin, place)

    def do(self, asked: Job | Question, send: Send, stop: Stop) -> bool:
        """Answer a job or a question through `send`; return whether the worker can go on.

        An error that the user can fix is sent as `Refused`. After any other fault of the engine,
        e.g. of the device, the worker has to end: what it holds may be damaged.
        """
        try:
            if isinstance(asked, Question):
                encoded = self.engine.encode(asked.request)
                send(Checked(self.engine.check(encoded, asked.reply)))
            else:
                self._answer(asked, send, stop)
        except RequestError as error:
            send(Refused(type(error), error.what, error.index))
        except MistralEvalError as error:
            send(Refused(type(error), str(error)))
        except (RuntimeError, MemoryError) as error:  # torch raises these for any fault
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            send(Died(f"after an error ({first})"))
        else:
            return True
        return False

    def _answer(self, job: Job, send: Send, stop: Stop) -> None:
        pending: list[tuple[int, Reply]] = []
        sent = time.monotonic()

        def deliver() -> None:
            nonlocal sent
            counters = self.engine.counters
            send(Answered(tuple(pending), counters and replace(counters)))
            pending.clear()
            sent = time.monotonic()

        def stopping() -> bool:
            nonlocal sent
            late = time.monotonic() - sent
            if pending and late > SEND_SECONDS:
                deliver()
            elif late > ALIVE_SECONDS:
                send(Alive())
                sent = time.monotonic()
            return stop()

        encoded = [self.engine.encode(request) for request in job.requests]
        failures: tuple[tuple[int, str], ...] = ()
        try:
            for index, reply in self.engine.answer(encoded, job.known, stopping):
                pending.append((index, reply))
                if time.monotonic() - sent > SEND_SECONDS:
                    deliver()
        except UnansweredError as error:
            failures = error.failures
        deliver()
        send(Done(failures))
