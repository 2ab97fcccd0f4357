"""What Ray says of a dead actor, as the end of our sentence; the texts are Ray 2.60's."""

import pytest

from mistral_eval.engines.cluster.ray_pool import RayWorker, cause_of
from mistral_eval.engines.cluster.worker_messages import Done, Job

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayWorker
\tactor_id: 0a
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer, (2) ray stop --force is called."""
NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: RayWorker
The actor died because its node has died. Node Id: 0b
\tthe actor's node was terminated unexpectedly: health check failed"""

MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 192.0.2.2, ID: 0c) was 2.37GB used / 23.54GB limit (0.100743)
OOM kill reason: Memory usage 2534105088B exceeded threshold of 505521248B"""
RAISED = """ray::RayWorker.do() (pid=7, ip=192.0.2.2, actor_id=0a)
  File "ray_pool.py", line 100, in do
    yield event
KeyError: 'layers.7'"""


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (KILLED, "Worker unexpectedly exits with a connection error code 2. End of file"),
        (NODE, "The actor died because its node has died"),
        (MEMORY, "killed due to the node running low on memory"),
        (RAISED, "KeyError: 'layers.7'"),
        ("AttributeError: no such thing", "AttributeError: no such thing"),
    ],
)
def test_the_cause_is_one_short_line(said, cause):
    assert cause_of(said) == cause


def test_an_error_that_a_worker_does_not_foresee_is_raised_where_ray_sees_it():
    """Ray turns it into the end of the call; without, the driver would wait for `Done`."""

    class Faulty:
        def do(self, asked, send, stop):
            send(Done())
            raise KeyError("layers.7")

    actor = RayWorker()
    actor._worker = Faulty()
    events = actor.do(Job(()))
    assert next(events) == Done()
    with pytest.raises(KeyError, match=r"layers\.7"):
        next(events)
