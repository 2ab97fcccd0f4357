"""Answer a run's requests, from the replies log where possible and from the engine otherwise.

Each distinct request is computed once. A reply counts once it is in the replies log.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from mistral_eval.console import counted
from mistral_eval.engines.interface import (
    Encoded,
    Encoder,
    Engine,
    EngineIdentity,
    Reply,
    Request,
    can_be_logprob,
    never,
)
from mistral_eval.engines.keys import reply_key
from mistral_eval.errors import (
    EndedEarlyError,
    EngineError,
    RepliesError,
    RequestError,
    UnansweredError,
)
from mistral_eval.record.replies import OtherRuns, RepliesLog
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.run.shared import Encodings
from mistral_eval.run.stopping import Stopper
from mistral_eval.run.watching import AnswerWatch

# Chooses among requests, by their keys and encoded forms; returns their places, in order.
Chosen: TypeAlias = Callable[[Sequence[bytes], Sequence[Encoded]], Sequence[int]]
SHOWN_FAILURES: Final = 3  # causes that the sentence about failed requests names


class Recorded:
    """The logged replies of a run, looked up without loading the model.

    Args:
        encoder: the encoder of the engine that answered; it computes the keys.
        log: the run's replies log.
    """

    def __init__(self, encoder: Encoder, log: RepliesLog) -> None:
        self._encoder = encoder
        self._log = log
        self.identity = encoder.identity
        self.seconds: Mapping[str, float] = {}
        self.remarks: Mapping[str, Sequence[str]] = {}  # a rescored run keeps its notes

    def answer_most(self, requests: Sequence[Request]) -> Sequence[Reply | None]:
        """Return the logged replies; none may be missing."""
        return self.answer(requests)

    def check_complete(self) -> None:
        """Do nothing: `answer` has checked it."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the logged replies to `requests`, in order.

        Raises:
            RepliesError: a reply is missing, e.g. because the protocol has changed.
        """
        keys = [reply_key(self.identity, self._encoder.encode(request)) for request in requests]
        found = self._log.lookup(keys)
        if missing := set(keys) - found.keys():
            pairs = zip(keys, requests, strict=True)
            names = dict.fromkeys(one.benchmark for key, one in pairs if key in missing)
            raise RepliesError(
                f"{self._log.folder} lacks {len(missing)} of {len(set(keys))} replies to questions "
                f"of {' and '.join(names)}: lines are damaged or gone, or the protocol, the data "
                f"or the tokenizer has changed since the run. Delete {RUN_FILE} and run the "
                "command again to compute only those, or add --fresh to compute all."
            )
        return [Reply.from_json(found[key]) for key in keys]

    def counts(self) -> dict[str, Any]:
        """Return an empty dict: a rescored run keeps the counts of the original run."""
        return {}


class Answering:
    """Answers requests with an engine and a replies log.

    Args:
        engine: computes the replies that are not logged.
        log: the run's replies log.
        others: other runs of the same model, whose replies are reused before any is computed.
        stopper: tells whether the user has asked the run to stop.
        encodings: what runs of other models have encoded; None encodes everything.
        chosen: returns the places of the requests to answer, given the keys and the encoded
            requests; None: all. The others have no reply.

    Attributes:
        watch: the progress display; None while nothing is displayed.
        requests: every request answered so far, for `--verify`.
        seconds: time the engine spent computing replies, by benchmark.
        remarks: the benchmarks that each remark of an encoded request is about.
        replies: number of generated replies and of their tokens, by benchmark.
        failed: requests that the engine could not answer while it answered others, and why.
        computed, reused, from_other_runs, truncated, generated_tokens: counts for run.json.
    """

    def __init__(
        self,
        engine: Engine,
        log: RepliesLog,
        others: OtherRuns | None = None,
        stopper: Stopper | None = None,
        encodings: Encodings | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self.engine = engine
        self._encodings = encodings
        self._chosen = chosen
        self.log = log
        self.watch: AnswerWatch | None = None
        self._others = others
        self._stopper = stopper
        self.requests: list[Request] = []
        self.seconds = defaultdict[str, float](float)
        self.remarks = defaultdict[str, list[str]](list)
        self.replies = defaultdict[str, list[int]](lambda: [0, 0])
        self.failed: list[tuple[Request, str]] = []
        self.computed = self.reused = self.from_other_runs = 0
        self.truncated = self.generated_tokens = 0

    @property
    def identity(self) -> EngineIdentity:
        """The engine's identity."""
        return self.engine.identity

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply per request, in order; all requests are of one kind.

        Raises:
            EndedEarlyError: the engine stopped early; the replies it computed are logged.
            EngineError: requests cannot be answered, or the engine failed.
        """
        replies = self.answer_most(requests)
        self.check_complete()
        return [reply for reply in replies if reply is not None]

    def check_complete(self) -> None:
        """Check that no request failed for good.

        Raises:
            EngineError: some did; the sentence names the first ones. All others are logged.
        """
        if not self.failed:
            return
        causes: dict[str, list[str]] = {}
        for request, why in self.failed:
            causes.setdefault(why, []).append(str(request))
        said = []
        for why, requests in list(causes.items())[:SHOWN_FAILURES]:
            more = f" and {len(requests) - 1} more" if requests[1:] else ""
            said.append(f"{requests[0]}{more}: {why}")
        others = len(causes) - len(said)
        rest = f" Other causes: {others}." if others > 0 else ""
        raise EngineError(
            f"The run is not complete: {counted(len(self.failed), 'request')} failed. "
            f"{' '.join(said)}{rest} All other replies are kept: run the same command again to ask "
            "only for what is missing."
        )

    def answer_most(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Return one reply per request, in order.

        It is None for each that is in `failed` afterwards, and for each that is not chosen.

        Raises:
            EndedEarlyError, EngineError: as of `answer`, for all other reasons.
        """
        encoded = self._encode(requests)
        keys = [reply_key(self.identity, item) for item in encoded]
        if self._chosen is None:
            return self._answer(requests, encoded, keys)
        places = self._chosen(keys, encoded)
        found = self._answer(
            [requests[n] for n in places], [encoded[n] for n in places], [keys[n] for n in places]
        )
        replies: list[Reply | None] = [None] * len(requests)
        for place, reply in zip(places, found, strict=True):
            replies[place] = reply
        return replies

    def _answer(
        self, requests: Sequence[Request], encoded: Sequence[Encoded], keys: Sequence[bytes]
    ) -> list[Reply | None]:
        """Return one reply per request, in order; None for each that is in `failed` afterwards."""
        self.truncated += sum(item.truncated for item in encoded)
        keep_remarks(self.remarks, encoded)
        known = self._known(keys)
        unique: dict[bytes, Encoded] = {}  # equal requests are computed once
        for key, item in zip(keys, encoded, strict=True):
            unique.setdefault(key, item)
        self.requests += requests
        if self.watch:
            self.watch.begin(keys, requests, known)
        with self._stopper.deferred() if self._stopper else nullcontext():
            self._compute(unique, known)
        replies = [known.get(key) for key in keys]
        count_tokens(self.replies, requests, replies)
        return replies

    def _encode(self, requests: Sequence[Request]) -> list[Encoded]:
        if self._encodings is None:
            return [self.engine.encode(request) for request in requests]
        return self._encodings.encode(self.engine, requests)

    def lookup(self, encoded: Encoded) -> Reply:
        """Return the logged reply to a request that was answered."""
        key = reply_key(self.identity, encoded)
        return Reply.from_json(self.log.lookup([key])[key])

    def counts(self) -> dict[str, Any]:
        """Return the counts of replies and tokens for run.json."""
        counts = {
            "computed": self.computed,
            "from_log": self.reused,
            "from_other_runs": self.from_other_runs,
            "truncated": self.truncated,
        }
        if self.engine.counters is None:
            return counts
        return {
            **counts,
            "generated_tokens": self.generated_tokens,
            "reply_tokens": mean_tokens(self.replies),
            "engine": asdict(self.engine.counters),
        }

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """Return replies from this run's log and from other runs; copy the latter into the log."""
        found = self.log.lookup(keys)
        self.reused += len(found)
        if self._others:
            missing = [key for key in dict.fromkeys(keys) if key not in found]
            borrowed = self._others.lookup(missing)
            for key, reply in borrowed.items():
                self.log.put(key, reply)
            self.from_other_runs += len(borrowed)
            found |= borrowed
        return {key: Reply.from_json(fields) for key, fields in found.items()}

    def _compute(self, unique: Mapping[bytes, Encoded], known: dict[bytes, Reply]) -> None:
        """Compute the replies missing from `known`, log each one and add it to `known`.

        The engine gets the known requests too, so that a resumed run forms the same batches.
        """
        keys, encoded = list(unique), list(unique.values())
        before = frozenset(index for index, key in enumerate(keys) if key in known)
        failed = len(self.failed)
        last = time.monotonic()
        for index, reply in self._replies(encoded, before):
            key = keys[index]
            now = time.monotonic()
            self.seconds[encoded[index].request.benchmark] += now - last
            last = now
            self._check(encoded[index].request, reply)
            self.log.put(key, reply.as_json())
            known[key] = reply
            self.computed += 1
            self.generated_tokens += len(reply.ids or ())
            if self.watch:
                self.watch.reply(key, reply)
        self.log.flush()
        left = len(keys) - len(known)
        if left > len(self.failed) - failed:
            raise EndedEarlyError(
                f"The engine {self.identity.engine} ended with {left} of {len(keys)} "
                "requests unanswered. Its replies are kept: run the same command again to resume."
            )

    def _check(self, request: Request, reply: Reply) -> None:
        """Refuse a reply that is no answer before it is logged and counts as known.

        Raises:
            EngineError: text without its finish, or a log-likelihood that cannot be one.
        """
        if request.kind == "generate":
            if not reply.finish:
                raise EngineError(
                    f"The engine {self.identity.engine} answered {request} without `finish`: "
                    "expected eos, stop or length."
                )
        elif not can_be_logprob(reply.logprob):
            raise EngineError(
                f"The engine {self.identity.engine} gave {request} the log-likelihood "
                f"{reply.logprob}: expected a finite number of at most 0."
            )

    def _replies(
        self, encoded: Sequence[Encoded], known: Collection[int]
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the engine's replies; add the benchmark and question to a request's error."""
        is_wanted = self._stopper.is_wanted if self._stopper else never

        def stop() -> bool:
            """Sync what has arrived, since the engine may take long to answer more."""
            self.log.flush_if_due()
            return is_wanted()

        try:
            yield from self.engine.answer(encoded, known, stop)
        except RequestError as error:
            raise EngineError(f"{encoded[error.index].request}: {error.what}") from error
        except UnansweredError as error:
            self.failed += [(encoded[n].request, why) for n, why in error.failures]
        except (RuntimeError, MemoryError) as error:  # torch raises these for any fault
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            names = dict.fromkeys(item.request.benchmark for item in encoded)
            raise EngineError(
                f"The engine {self.identity.engine} failed while answering {', '.join(names)} "
                f"({first}). "
                "Earlier replies are kept: run the same command again to resume, with --debug for "
                "the traceback."
            ) from error


def keep_remarks(remarks: MutableMapping[str, list[str]], encoded: Sequence[Encoded]) -> None:
    """Add the remarks of encoded requests, and the benchmarks that each one is about."""
    found = {(item.remark, item.request.benchmark): None for item in encoded if item.remark}
    for remark, benchmark in found:
        if benchmark not in remarks[remark]:
            remarks[remark].append(benchmark)


def mean_tokens(counts: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the mean number of tokens of a reply, by benchmark."""
    return {name: round(tokens / count, 1) for name, (count, tokens) in counts.items()}


def count_tokens(
    counts: MutableMapping[str, list[int]],
    requests: Sequence[Request],
    replies: Sequence[Reply | None],
) -> None:
    """Add the number of generated replies and of their tokens to each benchmark's counts."""
    for request, reply in zip(requests, replies, strict=True):
        if reply is not None and reply.ids is not None:
            count = counts[request.benchmark]
            count[0] += 1
            count[1] += len(reply.ids)


Answers: TypeAlias = Answering | Recorded
