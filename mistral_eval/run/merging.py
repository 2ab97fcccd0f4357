"""Merge the parts of a run: look up their replies, and refuse to compute what is missing."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistral_eval.console import counted
from mistral_eval.engines.interface import Encoder, EngineIdentity, Reply, Request, engine_class
from mistral_eval.engines.keys import reply_key
from mistral_eval.errors import RepliesError
from mistral_eval.native.requests import PEAKS
from mistral_eval.record.part_records import PartRecord, read_parts
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.answering import Recorded, count_tokens, keep_remarks, mean_tokens
from mistral_eval.run.opening import read_choices
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.settings import RunSettings

MERGE: Final = "merge"  # this process's share of a run: it computes nothing


class Merged(Recorded):
    """The replies that the parts of a run have logged.

    Args:
        encoder: the encoder of the engine that answered.
        log: the run's replies log.
        records: the records of its parts.
    """

    def __init__(self, encoder: Encoder, log: RepliesLog, records: Sequence[PartRecord]) -> None:
        super().__init__(encoder, log)
        self._records = records
        self._known: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._missing = Counter[str]()
        self._truncated = 0
        self._tokens = defaultdict[str, list[int]](lambda: [0, 0])
        remarks = defaultdict[str, list[str]](list)
        self.remarks = self._remarks = remarks
        seconds = Counter[str]()
        for record in records:
            seconds.update(record.seconds_by_task)
        self.seconds = seconds

    def answer_most(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Return the logged replies to `requests`, in order; None for each that is missing."""
        encoded = [self._encoder.encode(request) for request in requests]
        self._truncated += sum(item.truncated for item in encoded)
        keep_remarks(self._remarks, encoded)
        keys = [reply_key(self.identity, item) for item in encoded]
        found = self._log.lookup(keys)
        for key, request in zip(keys, requests, strict=True):
            if key not in found and key not in self._asked:
                self._missing[request.benchmark] += 1
            self._asked.add(key)
        self._known |= found.keys()
        replies = [Reply.from_json(found[key]) if key in found else None for key in keys]
        count_tokens(self._tokens, requests, replies)
        return replies

    def check_complete(self) -> None:
        """Check that no reply is missing.

        Raises:
            RepliesError: some are; the sentence says how many of which benchmark, and which parts
                are not done.
        """
        if not self._missing:
            return
        of_each = ", ".join(f"{name} {count}" for name, count in self._missing.items())
        engines = {record.identity.model_dump_json() for record in self._records}
        mixed = (
            " The parts were answered by different engines or models, whose replies do not go "
            "together; these are the ones of which most is there."
        )
        raise RepliesError(
            f"Expected {counted(len(self._asked), 'reply')} in {self._log.folder}, and "
            f"{self._missing.total()} of them are missing: {of_each}. {open_parts(self._records)}"
            f"{mixed if len(engines) > 1 else ''} Run the missing parts again, or the command "
            "without --no-compute to compute here what is missing."
        )

    def counts(self) -> dict[str, Any]:
        """Return the counts of replies and tokens for run.json, over all parts that are done."""
        done = [record.counts for record in self._records if record.counts]
        computed = sum(one.computed for one in done)
        borrowed = sum(one.from_other_runs for one in done)
        counts = {
            "computed": computed,
            "from_log": max(0, len(self._known) - computed - borrowed),
            "from_other_runs": borrowed,
            "truncated": self._truncated,
        }
        if not any(one.engine for one in done):
            return counts
        return {
            **counts,
            "generated_tokens": sum(one.generated_tokens for one in done),
            "reply_tokens": mean_tokens(self._tokens),
            "engine": sum_counters([one.engine for one in done]),
        }


def sum_counters(counters: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of several engines' counters; of peaks, the largest."""
    names = dict.fromkeys(name for one in counters for name in one)
    return {
        name: (max if name in PEAKS else sum)(one.get(name, 0) for one in counters)
        for name in names
    }


def check_parts(folder: Path) -> None:
    """Check that a run has a part, before its questions are built.

    Raises:
        RepliesError: it has none.
        OutputError: the record of one cannot be read.
    """
    if not read_parts(folder):
        raise RepliesError(
            f"--no-compute judges what the parts of a run have answered, and no part of the run in "
            f"{folder} has begun. Run the parts with --part, or the command without --no-compute."
        )


def merged(
    folder: Path, settings: RunSettings, loaded: Sequence[LoadedBenchmark], log: RepliesLog
) -> tuple[Merged, RunSettings]:
    """Return the logged replies of a run's parts, and the settings with what the engine chose.

    If different engines answered, it is the one of which most replies are there.

    Raises:
        RepliesError: no part has begun.
        MistralEvalError: the engine's tokenizer is not available here.
    """
    check_parts(folder)
    records = read_parts(folder)
    encoders = [
        engine_class(identity.engine).encoder(settings, identity)
        for identity in _identities(records)
    ]
    requests = [request for one in loaded for request in one.requests]

    def found(encoder: Encoder) -> int:
        keys = [reply_key(encoder.identity, encoder.encode(request)) for request in requests]
        return len(log.lookup(keys))

    best = encoders[0] if len(encoders) == 1 else max(encoders, key=found)
    settings = settings.model_copy(update={"choices": read_choices(folder)})
    return Merged(best, log, records), settings


def _identities(records: Sequence[PartRecord]) -> list[EngineIdentity]:
    """Return the engines that answered, each once, the latest first."""
    found: dict[str, EngineIdentity] = {}
    for record in sorted(records, key=lambda one: one.date, reverse=True):
        identity = EngineIdentity(
            **record.identity.model_dump(), info=record.info, notes=record.notes
        )
        found.setdefault(identity.fingerprint, identity)
    return list(found.values())


def open_parts(records: Sequence[PartRecord]) -> str:
    """Return a sentence about the parts that have not answered everything."""
    count = max(record.part[1] for record in records)
    of_count = [record for record in records if record.part[1] == count]
    done = {record.part[0] for record in of_count if record.status == "done"}
    begun = {record.part[0] for record in of_count} - done
    never = set(range(1, count + 1)) - done - begun
    said = [
        f"{_numbers(parts)} of {count} {verb}"
        for parts, verb in ((begun, "not finished"), (never, "not begun"))
        if parts
    ]
    return f"State of the parts: {'; '.join(said)}." if said else "All parts say they are done."


def _numbers(parts: set[int]) -> str:
    """Return the numbers of parts in order, at most ten of them."""
    shown = [str(number) for number in sorted(parts)]
    more = f" and {len(shown) - 10} more" if shown[10:] else ""
    return f"part{'s' if shown[1:] else ''} {', '.join(shown[:10])}{more}"
