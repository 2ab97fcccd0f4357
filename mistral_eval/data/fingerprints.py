"""Identify a test set by the SHA-256 of the columns that prompt and judge read.

Copies with the same fingerprint have the same questions and answers, regardless of file format,
extra columns or row groups. The pins are in `fingerprints.json`; docs/protocol.md tells how each
was checked.
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
        name: The pin's name; "hub" if the rows were compared with the hub's and are equal.
        footnote: A sentence for the table's notes; it follows the benchmark's title.
        commit: The hub's commit, if the rows were just loaded from the hub and it is known.
    """

    sha256: str
    name: str
    footnote: str
    commit: str | None = None

    @property
    def is_hub(self) -> bool:
        """True if the rows were compared with the hub's and are equal."""
        return self.name == "hub"


def fingerprint(spec: DataSpec, splits: Mapping[str, Sequence[Row]]) -> str:
    """Hash the rows of all of the benchmark's splits, in order.

    Each split is hashed as its name and count, then each row as a line of JSON with sorted keys.
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
    """Return the pinned fingerprints of a benchmark; empty if it has none."""
    known = json.loads(PINS.read_text(encoding="utf-8")).get(benchmark, [])
    return tuple(Fingerprint(**pin) for pin in known)


def identify(
    spec: DataSpec,
    splits: Mapping[str, Sequence[Row]],
    *,
    unpinned: bool = False,
    is_from_hub: bool = False,
) -> Fingerprint:
    """Return the pin that matches the rows.

    Some benchmarks have no pin of the hub's own rows. For these the hub's rows are accepted, with a
    footnote that they were never compared.

    Args:
        spec: the benchmark's data.
        splits: its rows, by split.
        unpinned: accept rows that match no pin, with a footnote.
        is_from_hub: whether the rows were just loaded from the hub.

    Raises:
        DataError: the rows match no pin, and `unpinned` is False.
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
    if not known:
        raise DataError(
            f"No copy of {spec.benchmark} is pinned (found sha256 {found[:12]}). Pin it with "
            "tools/new_benchmark.py, or accept the rows with --data-unpinned."
        )
    names = ", ".join(f"{pin.name} (sha256 {pin.sha256[:12]})" for pin in known)
    hint = (
        ""
        if any(pin.is_hub for pin in known)
        else " The hub's own rows were not available when the pins were made."
    )
    raise DataError(
        f"The rows of {spec.benchmark} should have a pinned fingerprint, {names}, but have "
        f"sha256 {found[:12]}.{hint} Check their source, or accept them with --data-unpinned."
    )
