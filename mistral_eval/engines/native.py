"""Our own engine behind its tokenizer: text to ids before, ids to text and stops after.

A pair is encoded as lm-eval's `_encode_pair` does: context and continuation together, split at the
context's length, trailing spaces of the context moved to the continuation. A generation is decoded
together with its prompt and then cut, or SentencePiece's leading space would be lost.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mistral_eval.engines.interface import Ask, Counts, Kind, Prepared, ReplyRecord
from mistral_eval.engines.stops import Stops, until_of
from mistral_eval.errors import EngineError, RequestError
from mistral_eval.model.tokenizers.incremental import PrefixEncoder, continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.native.requests import (
    GenerateRequest,
    Runner,
    Sampling,
    ScoreRequest,
    Stopping,
    truncate_left,
    truncate_prompt,
)

VERSION = 1  # part of the journal's key: raise it when the engine's numbers change
DEFAULT_MAX_TOKENS = 256  # lm-eval's, for stock tasks that name none


@dataclass
class NativeBackend:
    """Token ids in, token ids out, text on either side.

    Args:
        engine: answers ids.
        tokenizer: the checkpoint's.
        context_len: tokens the model can see; longer requests lose their left end, counted.
        model_fingerprint: identity of weights, tokenizer and dtype.
        seed: names the draws of sampled replies; runs of two seeds share no reply at all.
        notes: sentences about the checkpoint, for the table.
        info: what lm-eval's results say of a model: its parameters, dtype and context length.
    """

    engine: Runner
    tokenizer: Tokenizer
    context_len: int
    model_fingerprint: str
    seed: int = 0
    name: str = "native"
    notes: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _encoder: PrefixEncoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._encoder = PrefixEncoder(self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """Model and engine; what changes a number changes this."""
        return f"native/{VERSION} {self.model_fingerprint}"

    @property
    def stopping(self) -> Stopping:
        """The engine's: it knows what a pass is."""
        return self.engine.stopping

    @stopping.setter
    def stopping(self, ask: Stopping) -> None:
        self.engine.stopping = ask

    def prepare(self, kind: Kind, ask: Ask) -> Prepared:
        """Encode the request, cut to the context length."""
        arguments = ask.instance.args
        if kind == "score":
            request = self._fit(*self.encode_pair(arguments[0], arguments[1]))
            return Prepared((self.seed, request.context, request.continuation), request)
        if kind == "rolling":
            windows = self._windows(arguments[0])
            parts = tuple((window.context, window.continuation) for window in windows)
            return Prepared((self.seed, *parts), windows)
        return self._prepare_generate(arguments[0], arguments[1], ask)

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """Let the engine compute, and turn its replies into records."""
        if kind == "score":
            for index, score in self.engine.score([item.request for item in prepared], known):
                yield index, {"logprob": score.logprob, "is_greedy": score.is_greedy}
        elif kind == "rolling":
            yield from self._answer_rolling([item.request for item in prepared], known)
        else:
            yield from self._answer_generate(prepared, known)
        self.counts.engine = asdict(self.engine.stats)

    def encode_pair(
        self, context: str, continuation: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of context (with BOS) and continuation, both non-empty.

        Where the tokenizer melts the continuation's beginning into the context's last token, the
        two part before that token.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        head = self._encoder.encode(kept)
        whole = self._encoder.encode_beside(kept + continuation)
        split = min(len(head), len(whole) - 1)
        if whole[:split] == head:
            return head, whole[split:]
        return whole[:split], whole[split:]

    def _fit(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> ScoreRequest:
        request, was_cut = truncate_left(ScoreRequest(context, continuation), self.context_len)
        self.counts.truncated += was_cut
        return request

    def _windows(self, text: str) -> tuple[ScoreRequest, ...]:
        """Disjoint windows over the text, as lm-eval cuts them, each with one token of context."""
        windows = get_rolling_token_windows(
            token_list=self.tokenizer.encode(text, bos=False),
            prefix_token=self.tokenizer.bos_id,
            max_seq_len=self.context_len,
            context_len=1,
        )
        return tuple(
            ScoreRequest(tuple(context), tuple(continuation))
            for context, continuation in map(make_disjoint_window, windows)
        )

    def _answer_rolling(
        self, texts: Sequence[tuple[ScoreRequest, ...]], known: Collection[int]
    ) -> Iterator[tuple[int, ReplyRecord]]:
        owners = [owner for owner, windows in enumerate(texts) for _ in windows]
        missing = [len(windows) for windows in texts]
        sums = [0.0] * len(texts)
        flat = [window for windows in texts for window in windows]
        for owner, windows in enumerate(texts):
            if not windows and owner not in known:
                yield owner, {"logprob": 0.0}
        of_known = {window for window, owner in enumerate(owners) if owner in known}
        try:
            for index, score in self.engine.score(flat, of_known):
                owner = owners[index]
                sums[owner] += score.logprob
                missing[owner] -= 1
                if not missing[owner]:
                    yield owner, {"logprob": sums[owner]}
        except RequestError as error:
            raise RequestError("rolling", owners[error.index], error.what) from error

    def _prepare_generate(self, prompt: str, gen_kwargs: Mapping[str, Any], ask: Ask) -> Prepared:
        settings = normalize_gen_kwargs(dict(gen_kwargs), DEFAULT_MAX_TOKENS)
        max_tokens = int(settings["max_gen_toks"])
        sampling = _sampling(settings)
        stops = Stops(until_of(settings))
        key = f"{self.seed}|{ask.name}" if sampling.temperature > 0 else ""
        whole = GenerateRequest(self._encoder.encode(prompt), max_tokens, sampling, key)
        request, was_cut = truncate_prompt(whole, self.context_len)
        self.counts.truncated += was_cut
        ids = request.prompt
        if stops.until:
            request = replace(request, is_done=stops.watch(self.tokenizer, ids))
        drawn = (sampling.temperature, sampling.top_p, sampling.top_k, key)
        return Prepared((self.seed, ids, max_tokens, stops.until, *drawn), (request, stops))

    def _answer_generate(
        self, prepared: Sequence[Prepared], known: Collection[int]
    ) -> Iterator[tuple[int, ReplyRecord]]:
        requests = [item.request[0] for item in prepared]
        for index, reply in self.engine.generate(requests, known):
            stops: Stops = prepared[index].request[1]
            text = continuation_text(self.tokenizer, requests[index].prompt, reply.ids)
            self.counts.generated_tokens += len(reply.ids)
            yield (
                index,
                {
                    "text": stops.cut(text),
                    "ids": list(reply.ids),
                    "finish": reply.finish,
                },
            )


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """lm-eval's generation arguments as ours; without `do_sample` decoding is greedy.

    Raises:
        EngineError: an argument that would change the reply and is not supported.
    """
    known = {"do_sample", "temperature", "top_p", "top_k", "until", "max_gen_toks"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise EngineError(
            f"The native engine does not know the generation setting {unknown[0]!r}; it knows "
            f"{', '.join(sorted(known))}. Use --engine hf for this task."
        )
    if not settings.get("do_sample"):
        return Sampling()
    return Sampling(
        temperature=float(settings.get("temperature", 1.0)),
        top_p=float(settings.get("top_p", 1.0)),
        top_k=int(settings.get("top_k", 0)),
    )
