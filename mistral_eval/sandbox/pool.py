"""Runs many programs in parallel slots, and yields each verdict as it falls."""

import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError

from .interpreter import find_interpreter
from .isolation import Isolation, advice
from .launch import Setup, cores
from .outcomes import Limits, ProgramResult
from .slot import Slot, start_slots

_TICK_SECONDS = 0.5  # how often deadlines are looked at


def run_programs(
    programs: Sequence[Program],
    *,
    isolation: Isolation,
    unsafe: bool,
    workers: int | None = None,
    limits: Limits | None = None,
) -> Iterator[tuple[int, ProgramResult]]:
    """Judges programs, each in a fresh process with a fresh scratch folder.

    Args:
        programs: What to judge.
        isolation: What `probe` found.
        unsafe: Whether to go on where there is no isolation.
        workers: Programs at a time; None for one per core.
        limits: What each may use; None for the defaults.

    Yields:
        A program's index and its result, in the order in which they end.

    Raises:
        SandboxError: At once, before anything runs: no isolation, and not `unsafe`; or the
            sandbox did not start.
    """
    if not isolation.available and not unsafe:
        raise SandboxError(
            f"generated programs cannot be isolated here: {isolation.detail}; {advice()}"
        )
    setup = Setup(isolation.kind, find_interpreter(), limits or Limits())
    count = min(workers or cores(), max(1, len(programs)))
    return judge_all(programs, setup, count)


def judge_all(
    programs: Sequence[Program], setup: Setup, count: int
) -> Iterator[tuple[int, ProgramResult]]:
    """Judges `programs`, `count` at a time; see `run_programs`."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        idle = list(start_slots(setup, selector, count))
        everyone = tuple(idle)
        for slot in everyone:
            stack.enter_context(closing(slot))
        waiting = iter(enumerate(programs))
        left = len(programs)
        while left:
            while idle and (job := next(waiting, None)) is not None:
                idle.pop().start(*job)
            for slot, index, result in _listen(selector, everyone):
                idle.append(slot)
                left -= 1
                yield index, result


def _listen(
    selector: selectors.BaseSelector, everyone: tuple[Slot, ...]
) -> list[tuple[Slot, int, ProgramResult]]:
    """Waits for news, for a tick at most; gives the programs that have ended."""
    ended = []
    for key, _ in selector.select(_TICK_SECONDS):
        slot, role = key.data
        done = slot.hear(role)
        if done is not None:
            ended.append((slot, *done))
    if not ended:
        now = time.monotonic()
        for slot in everyone:
            done = slot.check_time(now)
            if done is not None:
                ended.append((slot, *done))
    return ended
