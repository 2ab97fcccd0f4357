"""lm-eval's `LM` over our backends and our replies log: the one place a question passes twice.

Text goes in, the replies log is asked first, what it does not know is computed and kept, text comes
out. Registered with lm-eval as `mistral`.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from mistral_eval.engines.interface import Ask, Backend, Kind, Prepared, ReplyRecord
from mistral_eval.errors import EndedEarlyError, EngineError, RequestError
from mistral_eval.record.replies import OtherRuns, RepliesLog, request_key


class Watch(Protocol):
    """Told of a kind's requests, and of each reply that is computed to them."""

    def begin(
        self, keys: Sequence[bytes], asks: Sequence[Ask], known: Mapping[bytes, ReplyRecord]
    ) -> None:
        """All requests, in order, equal ones under one key; and the replies that are there."""
        ...

    def reply(self, key: bytes, reply: ReplyRecord) -> None:
        """A reply came."""
        ...


class Stopper(Protocol):
    """Knows whether somebody wants the run to stop."""

    def deferred(self) -> AbstractContextManager[None]:
        """In this block the wish is noted; the block ends early and the stop comes after it."""
        ...

    def is_wanted(self) -> bool:
        """Whether to end now."""
        ...


@register_model("mistral")
class MistralLM(LM):
    """An lm-eval model that computes each request once and remembers it.

    Args:
        backend: answers what the log does not know.
        log: where replies are kept; None keeps nothing (stock lm-eval's own runs).
        watch: told of requests and of replies as they come in.
        others: asked for what the log does not know, before it is computed.
        stopper: asked by the backend before each pass whether to end; None: it never is to.
    """

    def __init__(
        self,
        backend: Backend,
        log: RepliesLog | None = None,
        watch: Watch | None = None,
        others: OtherRuns | None = None,
        stopper: Stopper | None = None,
    ) -> None:
        super().__init__()
        self.backend = backend
        self.log = log
        self.watch = watch
        self.others = others
        self.stopper = stopper
        if stopper:
            backend.stopping = stopper.is_wanted
        self.computed = 0
        self.reused = 0
        self.from_other_runs = 0
        self.asked: list[tuple[Kind, Ask]] = []  # what was answered, for those who check it
        self.seconds: defaultdict[str, float] = defaultdict(
            float
        )  # by task: spent until its replies came

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Self:
        """Stock lm-eval's `--model mistral --model_args pretrained=PATH,dtype=...`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Self:
        """Build the native engine from lm-eval's model arguments (see `open_native`)."""
        from mistral_eval.engines.open_native import open_native

        arguments = {k: v for k, v in {**arg_dict, **(additional_config or {})}.items() if v}
        ignored = ("batch_size", "max_batch_size")  # the token budget takes their place
        return cls(open_native(**{k: v for k, v in arguments.items() if k not in ignored}))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood of each (context, continuation), and whether greedy decoding says it."""
        replies = self._answer("score", [Ask(instance) for instance in requests])
        return [(reply["logprob"], reply["is_greedy"]) for reply in replies]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of each whole text, in disjoint windows of the model's context length."""
        replies = self._answer("rolling", [Ask(instance) for instance in requests])
        return [reply["logprob"] for reply in replies]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The continuation of each prompt, cut at its stops.

        lm-eval asks for k samples by passing the same instance k times, so its occurrences are
        counted: the n-th is sample n.
        """
        seen: Counter[int] = Counter()
        asks = []
        for instance in requests:
            asks.append(Ask(instance, seen[id(instance)]))
            seen[id(instance)] += 1
        return [reply["text"] for reply in self._answer("generate", asks)]

    def _answer(self, kind: Kind, asks: Sequence[Ask]) -> list[ReplyRecord]:
        prepared = [self.backend.prepare(kind, ask) for ask in asks]
        fingerprint = self.backend.fingerprint
        keys = [request_key(fingerprint, kind, *item.parts) for item in prepared]
        known: dict[bytes, ReplyRecord] = self.log.lookup(keys) if self.log is not None else {}
        self.reused += len(known)
        self._borrow(keys, known)
        unique: dict[bytes, tuple[Prepared, Ask]] = {}  # equal requests are computed once
        for key, item, ask in zip(keys, prepared, asks, strict=True):
            unique.setdefault(key, (item, ask))
        self.asked += [(kind, ask) for ask in asks]
        if self.watch:
            self.watch.begin(keys, asks, known)
        with self.stopper.deferred() if self.stopper else nullcontext():
            self._compute(kind, unique, known)
        return [known[key] for key in keys]

    def _borrow(self, keys: Sequence[bytes], known: dict[bytes, ReplyRecord]) -> None:
        """Take over what other runs of this model were answered to the very same requests."""
        if self.others is None or self.log is None:
            return
        found = self.others.lookup([key for key in dict.fromkeys(keys) if key not in known])
        for key, reply in found.items():
            self.log.put(key, reply)
        self.from_other_runs += len(found)
        known.update(found)

    def _compute(
        self,
        kind: Kind,
        unique: dict[bytes, tuple[Prepared, Ask]],
        known: dict[bytes, ReplyRecord],
    ) -> None:
        """Have answered what is not known; the backend sees all, so that it cuts the same packs.

        Raises:
            EndedEarlyError: requests are left, and what was answered is durable.
        """
        names = list(unique)
        last = time.monotonic()
        before = frozenset(index for index, key in enumerate(names) if key in known)
        for index, reply in self._answers(kind, list(unique.values()), before):
            key = names[index]
            now = time.monotonic()
            self.seconds[str(unique[key][1].instance.task_name)] += now - last
            last = now
            if self.log is not None:
                self.log.put(key, reply)
            known[key] = reply
            self.computed += 1
            if self.watch:
                self.watch.reply(key, reply)
        if self.log is not None:
            self.log.flush()
        if left := len(names) - len(known):
            raise EndedEarlyError(
                f"The engine {self.backend.name} ended with {left} of {len(names)} requests "
                "unanswered. What it had answered is kept, and the same command goes on from there."
            )

    def _answers(
        self, kind: Kind, requests: Sequence[tuple[Prepared, Ask]], known: Collection[int]
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """The backend's replies; what goes wrong in it is named by benchmark and question.

        Raises:
            EngineError: a request cannot be answered, or the engine failed.
        """
        try:
            yield from self.backend.answer(kind, [item for item, _ in requests], known)
        except RequestError as error:
            raise EngineError(f"{requests[error.index][1].words}: {error.what}") from error
        except (RuntimeError, MemoryError) as error:  # what torch raises, whatever went wrong
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise EngineError(
                f"The engine {self.backend.name} failed while answering ({first}). What it had "
                "answered before is kept, and the same command goes on from there; with --debug "
                "it shows where it failed."
            ) from error
