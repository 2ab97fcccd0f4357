"""The driver of a thousand workers: how busy they are, and what the driver itself costs.

    python speed/cluster.py [--workers 1000] [--replies 1200000] [--rate 20000]

The real scheduler, team, replies log and bookkeeping of a run (`Answering`) drive simulated
workers. These live in a process of their own and answer after the time that a GPU would take: times
of requests are log-normal, one worker in fifty is three times slower, and one in a hundred dies
once and is replaced after a second. `--rate` is how many replies all workers give per second.

Prints the share of time that workers are busy until the last shard is taken, the makespan over its
lower bound (all work over all workers' speed), the share of one core that the driver takes while it
collects replies, and how its memory grows. Last comes one JSON document.
"""

import argparse
import gc
import heapq
import json
import multiprocessing
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from machine import machine

from mistral_eval.engines.cluster.engine import ClusterEngine
from mistral_eval.engines.cluster.team import Team
from mistral_eval.engines.cluster.worker_messages import (
    Answered,
    Died,
    Done,
    Event,
    Job,
    Opened,
    Question,
)
from mistral_eval.engines.interface import (
    Capabilities,
    EngineIdentity,
    Reply,
    Request,
    TextEncoder,
)
from mistral_eval.model.memory import status_bytes
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.answering import Answering
from mistral_eval.settings import RunSettings

TICK = 0.05  # seconds between two deliveries of the simulation
SEND = 0.2  # as real workers send
OPEN_SECONDS = 1.0
SIGMA = 0.8  # of the logarithm of a request's time
SLOW_SHARE, SLOWER = 0.02, 3.0
DEATH_SHARE = 0.01
IDENTITY = EngineIdentity("simulated")
OPENED = Opened(IDENTITY, Capabilities(), {}, "", "simulated")


@dataclass
class Simulated:
    """One worker: its speed, life, and jobs."""

    speed: float
    dies_at: float
    life: int = 0
    jobs: list[tuple[float, float]] = field(default_factory=list)  # when each began and ended


@dataclass
class World:
    """All workers; runs in a process of its own and sends (seat, event) in lists."""

    wire: Connection
    workers: int
    mean: float
    seed: int
    due: list[tuple[float, int, int, int, Event]] = field(default_factory=list)
    count: int = 0

    def run(self) -> None:
        """Take (seat, message) from the driver and send events when their time has come."""
        outgoing: SimpleQueue[object] = SimpleQueue()
        # in a thread, since the driver may be sending too, and neither would read
        threading.Thread(target=self._send, args=(outgoing,), daemon=True).start()
        rng = random.Random(self.seed)
        expected = 60.0
        seats = [
            Simulated(
                1 / SLOWER if rng.random() < SLOW_SHARE else 1.0,
                rng.uniform(0, expected) if rng.random() < DEATH_SHARE else float("inf"),
            )
            for _ in range(self.workers)
        ]
        began = time.monotonic()
        last_taken = began
        while True:
            while self.wire.poll(TICK):
                message = self.wire.recv()
                now = time.monotonic()
                if message is None:
                    jobs = [job for seat in seats for job in seat.jobs]
                    first = min(start for start, _ in jobs)
                    busy = sum(max(0.0, min(end, last_taken) - start) for start, end in jobs)
                    share = busy / (self.workers * (last_taken - first))
                    outgoing.put((share, sum(seat.speed for seat in seats)))
                    outgoing.put(None)
                    self.wire.recv()  # the driver has read it
                    return
                seat, job = message
                if job is None:
                    seats[seat].life += 1
                    self.at(
                        now + OPEN_SECONDS * rng.uniform(0.5, 1.5), seat, seats[seat].life, OPENED
                    )
                else:
                    last_taken = now
                    self.work(seat, seats[seat], job, now, began, rng)
            now = time.monotonic()
            ready = []
            while self.due and self.due[0][0] <= now:
                _, _, seat, life, event = heapq.heappop(self.due)
                if life == seats[seat].life:
                    ready.append((seat, event))
                    if isinstance(event, Died):
                        seats[seat].life += 1
            if ready:
                outgoing.put(ready)

    def _send(self, outgoing: "SimpleQueue[object]") -> None:
        while (message := outgoing.get()) is not None:
            self.wire.send(message)

    def at(self, when: float, seat: int, life: int, event: Event) -> None:
        """Plan an event of a worker's present life."""
        self.count += 1
        heapq.heappush(self.due, (when, self.count, seat, life, event))

    def work(
        self, seat: int, one: Simulated, job: Job, now: float, began: float, rng: random.Random
    ) -> None:
        """Plan the replies of a job, in deliveries as real workers make them."""
        pending: list[tuple[int, Reply]] = []
        clock = sent = now
        factor = self.mean / one.speed
        shift = -SIGMA * SIGMA / 2
        for index in range(len(job.requests)):
            if index in job.known:
                continue
            clock += factor * rng.lognormvariate(shift, SIGMA)
            if clock - began > one.dies_at:
                one.jobs.append((now, clock))
                one.dies_at = float("inf")
                self.at(clock, seat, one.life, Died("by signal 9 (SIGKILL)"))
                return
            pending.append((index, Reply(logprob=-rng.random(), is_greedy=False)))
            if clock - sent > SEND:
                self.at(clock, seat, one.life, Answered(tuple(pending), None))
                pending, sent = [], clock
        one.jobs.append((now, clock))
        self.at(clock, seat, one.life, Answered(tuple(pending), None))
        self.at(clock, seat, one.life, Done())


class SimulatedPool:
    """The driver's end of the simulation."""

    def __init__(self, workers: int, mean: float, seed: int) -> None:
        self.size = workers
        self.wire, theirs = multiprocessing.Pipe()
        world = World(theirs, workers, mean, seed)
        self.process = multiprocessing.get_context("fork").Process(target=world.run, daemon=True)
        self.process.start()
        theirs.close()

    def start(self, seat: int, settings: RunSettings) -> None:
        """Start a worker."""
        del settings
        self.wire.send((seat, None))

    def give(self, seat: int, asked: Job | Question) -> None:
        """Send a worker its next job."""
        assert isinstance(asked, Job)
        # only the number of requests matters to the simulation
        light = Job((None,) * len(asked.requests), asked.known)  # type: ignore[arg-type]
        self.wire.send((seat, light))

    def stop(self, seat: int) -> None:
        """Fail."""
        raise AssertionError(f"nobody stops the simulated worker {seat}")

    def kill(self, seat: int) -> None:
        """Fail."""
        raise AssertionError(f"the simulated worker {seat} does not hang")

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return what workers have said."""
        return self.wire.recv() if self.wire.poll(seconds) else []

    def close(self) -> None:
        """Wait for the end of the simulation."""
        self.process.join()


def requests(count: int) -> list[Request]:
    """Four choices a question, questions of a subject behind its solved examples."""
    return [
        Request(
            "mmlu", n // 4, n % 4, 0, "score", f"{n // 4000} examples ... {n // 4}?", f" {n % 4}"
        )
        for n in range(count)
    ]


def main() -> None:
    """Run the simulation and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--replies", type=int, default=1_200_000)
    parser.add_argument("--rate", type=float, default=20_000.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    mean = given.workers / given.rate
    pool = SimulatedPool(given.workers, mean, given.seed)
    team = Team(pool, RunSettings(tasks=("mmlu",), model="tiny"), lambda _: None)
    opened = team.begin()
    engine = ClusterEngine(team, opened, TextEncoder(0, IDENTITY))
    asked = requests(given.replies)
    with tempfile.TemporaryDirectory() as folder, RepliesLog(Path(folder)) as log:
        answering = Answering(engine, log)
        marks: list[tuple[float, float, int]] = []
        put = log.put

        def noted(key: bytes, fields: object) -> None:
            put(key, fields)  # type: ignore[arg-type]
            if answering.computed % (given.replies // 20) == 0:
                marks.append((time.monotonic(), time.process_time(), status_bytes("VmRSS")))

        log.put = noted  # type: ignore[method-assign,assignment]
        gc.collect()
        found = answering.answer(asked)
        pool.wire.send(None)
        busy, speed = pool.wire.recv()
        pool.wire.send(None)
        engine.close()
    assert len(found) == given.replies
    (first, cpu_first, rss_first), (last, cpu_last, rss_last) = marks[0], marks[-1]
    makespan = last - first
    bound = given.replies * mean / speed
    result = {
        "workers": given.workers,
        "replies": given.replies,
        "replaced": team.replaced,
        "seconds": round(makespan, 2),
        "replies_per_second": round(given.replies / makespan),
        "busy_until_last_shard": round(busy, 4),
        "makespan_over_bound": round(makespan / bound, 3),
        "driver_core": round((cpu_last - cpu_first) / makespan, 3),
        "driver_us_per_reply": round(1e6 * (cpu_last - cpu_first) / given.replies, 1),
        "rss_growth_bytes_per_reply": round((rss_last - rss_first) / given.replies),
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
