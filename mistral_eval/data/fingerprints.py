"""Identify a test set: a sha256 over what prompt and judge read, and the names of known copies.

Two copies with the same fingerprint ask the same questions and accept the same answers, whatever
file format, extra columns or row groups they came with. The pins are in `fingerprints.json`; how
each was checked is in docs/protocol.md.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from mistral_eval.data.task_file import DataSpec, Row
from mistral_eval.errors import DataError

PINS: Final = Path(__file__).resolve().parent / "fingerprints.json"
UNPINNED: Final = "unpinned"
UNCHECKED: Final = "hub-unchecked"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A test set's identity.

    Attributes:
        sha256: The hash of the rows.
        name: The name it is known by; "hub" if the rows were compared with the hub's and equal.
        footnote: A sentence for the table's notes, to stand after the benchmark's title.
        commit: The hub's commit, if the rows were just loaded from there and it is known.
    """

    sha256: str
    name: str
    footnote: str
    commit: str | None = None

    @property
    def is_hub(self) -> bool:
        """Whether these are the hub's rows, as far as anybody has checked."""
        return self.name == "hub"


def fingerprint(spec: DataSpec, splits: Mapping[str, Sequence[Row]]) -> str:
    """Hash the rows of all of the benchmark's splits, in order.

    A row is one line of JSON, keys sorted, text as UTF-8; a split begins with its name and count.
    """
    digest = hashlib.sha256()
    for split in spec.splits:
        digest.update(f"{split} {len(splits[split])}\n".encode())
        for row in splits[split]:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


@cache
def pins(benchmark: str) -> tuple[Fingerprint, ...]:
    """The fingerprints this benchmark is known by; empty for one that nobody has pinned."""
    known = json.loads(PINS.read_text(encoding="utf-8")).get(benchmark, [])
    return tuple(Fingerprint(**pin) for pin in known)


def identify(
    spec: DataSpec,
    splits: Mapping[str, Sequence[Row]],
    *,
    unpinned: bool = False,
    is_from_hub: bool = False,
) -> Fingerprint:
    """Find the rows' name among the pins.

    The hub's own rows of some benchmarks were not available when the pins were made: what the hub
    gives for these is used, and the footnote says that it was never compared.

    Args:
        spec: the benchmark's data.
        splits: its rows, by split.
        unpinned: accept rows that nobody has pinned; the footnote says so.
        is_from_hub: whether the rows were just loaded from the hub.

    Raises:
        DataError: the fingerprint is not a pinned one, and `unpinned` is False.
    """
    found = fingerprint(spec, splits)
    known = pins(spec.benchmark)
    for pin in known:
        if pin.sha256 == found:
            return pin
    if is_from_hub and not any(pin.is_hub for pin in known):
        note = f"the rows the hub gave (sha256 {found[:12]}); never compared with a pinned copy."
        return Fingerprint(found, UNCHECKED, note)
    if unpinned:
        note = f"test set not identified (sha256 {found[:12]})."
        return Fingerprint(found, UNPINNED, note)
    names = ", ".join(f"{pin.name} (sha256 {pin.sha256[:12]})" for pin in known) or "none"
    hint = (
        ""
        if any(pin.is_hub for pin in known) or not known
        else " The hub's own rows were not at hand when the pins were made, and are not among them."
    )
    raise DataError(
        f"The rows of {spec.benchmark} should have a pinned fingerprint, {names}, but have "
        f"sha256 {found[:12]}.{hint} Check where they come from; --data-unpinned goes on."
    )
