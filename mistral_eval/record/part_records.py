"""What each part of a run leaves in its folder: which engine answered, and what it counted.

`parts/part2of4-attempt1.json` is written when the part's engine is open, and again when the part
has answered all of its requests. From these files the parts are merged on a machine without the
model.
"""

import json
import re
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mistral_eval.errors import OutputError, complaint
from mistral_eval.record.run_folder import PARTS_FOLDER, write_json
from mistral_eval.record.run_record import CountsRecord, IdentityRecord

PART_FORMAT: Final = 1
NAME: Final = re.compile(r"part(\d+)of(\d+)-attempt(\d+)\.json")


class PartRecord(BaseModel):
    """One attempt at one part.

    Attributes:
        part: its number, from 1, and the number of parts.
        attempt: the attempt's number, from 1.
        status: "started", or "done" once all of its requests are answered.
        date: when the record was written.
        identity: the engine that answers.
        info, notes: see `engines.interface.EngineIdentity`.
        counts: as in run.json; None until it is done.
        seconds: time of its phases, in seconds.
        seconds_by_task: time its engine spent computing replies, by benchmark.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = PART_FORMAT
    part: tuple[int, int]
    attempt: int
    status: Literal["started", "done"]
    date: str
    identity: IdentityRecord
    info: dict[str, Any]
    notes: tuple[str, ...]
    counts: CountsRecord | None = None
    seconds: dict[str, float] = {}
    seconds_by_task: dict[str, float] = {}


def share_name(part: tuple[int, int], attempt: int) -> str:
    """Return the name of a part's attempt, which its files have."""
    return f"part{part[0]}of{part[1]}-attempt{attempt}"


def write_part(folder: Path, record: PartRecord) -> None:
    """Write a part's record into the run's folder; it replaces one of the same attempt.

    Raises:
        OutputError: it could not be written.
    """
    name = f"{share_name(record.part, record.attempt)}.json"
    write_json(folder / PARTS_FOLDER / name, record.model_dump(mode="json"))


def read_parts(folder: Path) -> list[PartRecord]:
    """Return the records of all parts of a run, sorted by part and attempt; none if it has none.

    Raises:
        OutputError: a record cannot be read.
    """
    found = []
    for path in (folder / PARTS_FOLDER).glob("part*.json"):
        if not NAME.fullmatch(path.name):
            continue
        try:
            found.append(PartRecord.model_validate(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            what = complaint(error)[1] if isinstance(error, ValidationError) else f"{error}."
            raise OutputError(
                f"{path} should be the record of a part of the run, but cannot be read: {what} "
                "Remove it and run that part again: its replies are kept."
            ) from error
    return sorted(found, key=lambda one: (one.part, one.attempt))
