"""Divide a run's requests into parts that separate processes answer, on one machine or on many.

All parts write into the replies log of one run. Which requests are in a part depends on the
requests and the number of parts only, so all processes agree without talking to each other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from mistral_eval.engines.cluster.cutting import path_of, reply_cost
from mistral_eval.engines.interface import Encoded, Engine, EngineIdentity
from mistral_eval.native.shards import cut_shards
from mistral_eval.record.part_records import PartRecord, share_name, write_part
from mistral_eval.record.run_record import CountsRecord, IdentityRecord
from mistral_eval.run.answering import Answering, Chosen
from mistral_eval.settings import RunSettings

RESTARTS: Final = "SLURM_RESTART_COUNT"  # Slurm sets it in a job that was requeued


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a run.

    Attributes:
        number: which one, from 1.
        count: number of parts.
        attempt: which attempt at it, from 1. After a node has failed, an earlier attempt may still
            be running there.
    """

    number: int
    count: int
    attempt: int = 1

    @classmethod
    def of(cls, settings: RunSettings) -> Self | None:
        """Return the part that the settings name; None for the whole run."""
        if settings.part is None:
            return None
        number, count = settings.part.split("/")
        restarts = os.environ.get(RESTARTS, "")
        return cls(int(number), int(count), 1 + int(restarts) if restarts.isdigit() else 1)

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    @property
    def name(self) -> str:
        """The name of this attempt, which its files have."""
        return share_name((self.number, self.count), self.attempt)

    def begin(self, folder: Path, engine: Engine) -> Chosen:
        """Record that this part has opened its engine; return what chooses its requests.

        Raises:
            OutputError: the record could not be written.
        """
        write_part(folder, self._record(engine.identity, status="started"))
        return self.chosen

    def end(self, folder: Path, answers: Answering, seconds: dict[str, float]) -> str:
        """Record that this part has answered all of its requests; return a sentence about it.

        Raises:
            MistralEvalError: replies or record could not be written.
        """
        answers.log.flush()
        record = self._record(
            answers.identity,
            status="done",
            counts=CountsRecord.model_validate(answers.counts()),
            seconds=seconds,
            seconds_by_task=dict(answers.seconds),
        )
        write_part(folder, record)
        known = answers.reused + answers.from_other_runs
        return (
            f"{str(self).capitalize()} is done: {answers.computed} replies were computed and "
            f"{known} known; they are in {folder}. When all parts are done, the same command with "
            f"--no-compute in place of --part {self.number}/{self.count} judges them and prints "
            "the table."
        )

    def _record(self, identity: EngineIdentity, **fields: Any) -> PartRecord:
        return PartRecord(
            part=(self.number, self.count),
            attempt=self.attempt,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=IdentityRecord.model_validate(identity.as_json()),
            info=dict(identity.info),
            notes=identity.notes,
            **fields,
        )

    def chosen(self, keys: Sequence[bytes], encoded: Sequence[Encoded]) -> list[int]:
        """Return the indices of the requests in this part, in order.

        Requests of one kind are cut where they share least with each other. Requests with equal
        keys are in one part, and so are all samples of a question. Later turns follow replies that
        only the part of their question has, so they are all in this part.
        """
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        places = list(first.values())
        unique = [encoded[index] for index in places]
        paths = [path_of(one.work, one.request) for one in unique]
        extra = [reply_cost(one.request.settings) for one in unique]
        shards = cut_shards(paths, self.count, extra).shards
        mine: set[bytes] = set()
        if self.number <= len(shards):
            mine = {keys[places[index]] for index in shards[self.number - 1].indices}
        return [
            index
            for index, (key, one) in enumerate(zip(keys, encoded, strict=True))
            if key in mine or one.request.turn
        ]
