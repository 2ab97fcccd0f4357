"""What Ray says of a dead actor, as the end of our sentence; the texts are Ray 2.60's."""

import pytest

from mistral_eval.engines.cluster.ray_pool import cause_of

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


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (KILLED, "Worker unexpectedly exits with a connection error code 2. End of file"),
        (NODE, "The actor died because its node has died"),
        ("AttributeError: no such thing", "AttributeError: no such thing"),
    ],
)
def test_the_cause_is_one_short_line(said, cause):
    assert cause_of(said) == cause
