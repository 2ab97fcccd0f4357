"""Requests as token ids of the checkpoint's tokenizer, and ids as text, without any weights.

Context and continuation are encoded as in lm-eval's `_encode_pair`: together, split at the
context's length, with trailing spaces of the context moved to the continuation.

Where the tokenizer joins a prompt's last line break with the spaces that follow, the prompt's last
token is healed (see `model.tokenizers.borders`).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mistral_eval.engines.chat_ids import ChatIds, begins_reply
from mistral_eval.engines.interface import Encoded, EngineIdentity, Reply, Request, named
from mistral_eval.errors import EngineError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.tokenizers.borders import Borders
from mistral_eval.model.tokenizers.incremental import PrefixEncoder, StreamText, continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer, prefix_id
from mistral_eval.native.requests import (
    GenerateRequest,
    Sampling,
    ScoreRequest,
    truncate_left,
    truncate_prompt,
)

HEALED: Final = (
    "the prompt's last line break is drawn again with the reply (token healing), since this "
    "tokenizer joins it with the spaces that follow"
)
NOT_HEALED: Final = (
    "the tokenizer joins the prompt's last line break with the spaces that follow, and this engine "
    "generates after the line break alone, so replies may have no indentation; --engine native "
    "heals it"
)

BEGINS: Final = "reply"  # marks keys of replies that are decoded without the prompt before them


class NativeEncoder:
    """Encode requests as token ids.

    Args:
        tokenizer: the checkpoint's tokenizer.
        context_len: the context length in tokens; longer requests are truncated on the left.
        seed: random seed of sampled replies; part of every key.
        identity: what replies depend on besides the request.
        chat: encodes conversations; None refuses them.

    Attributes:
        score_len: the context length for log-likelihoods.
        heals: whether the engine can draw a reply's first token among given ones.
    """

    heals = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_len: int,
        seed: int,
        identity: EngineIdentity,
        chat: ChatIds | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_len = self.score_len = context_len
        self.seed = seed
        self.identity = identity
        self.chat = chat
        self._prefixes = PrefixEncoder(tokenizer)
        self._borders = Borders(tokenizer, self._prefixes)
        # with BOS no text is without ids
        self._prefix = () if tokenizer.adds_bos else (prefix_id(tokenizer),)

    @property
    def encoding(self) -> Hashable:
        """What token ids of a text depend on; see `Engine.encoding`."""
        ids = self.tokenizer
        words = (ids.fingerprint, ids.n_words, ids.adds_bos, ids.bos_id, ids.eos_ids)
        return (type(self), *words, self.context_len, self.score_len, self.seed)

    def encode(self, request: Request) -> Encoded:
        """Encode a request, truncated on the left to the context length.

        Raises:
            EngineError: the request does not fit, or has a generation setting we do not support.
            TokenizerError: it is a conversation, and the checkpoint has no format for one.
        """
        if request.kind == "score":
            pair, remark = self._pair(request)
            with named(request):
                work, was_cut = truncate_left(ScoreRequest(*pair), self.score_len)
            return Encoded(
                request,
                (self.seed, work.context, work.continuation),
                work,
                was_cut,
                remark=remark,
            )
        if request.kind == "rolling":
            windows = self._windows(request.text)
            parts = (self.seed, *((one.context, one.continuation) for one in windows))
            return Encoded(request, parts, windows)
        return self._encode_prompt(request)

    def decode(self, encoded: Encoded, ids: Sequence[int], finish: str) -> Reply:
        """Return the reply of generated ids, EOS excluded: their text up to a stop string."""
        before = () if begins_reply(encoded.request) else encoded.work.prompt
        text = continuation_text(self.tokenizer, before, ids)
        text = encoded.request.generation.cut(text.removeprefix(encoded.healed))
        return Reply(text=text, ids=tuple(ids), finish=finish)

    def _pair(self, request: Request) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], str]:
        """Return the ids of context and continuation, and the remark about their format."""
        if not isinstance(request.context, Messages) or self.chat is None:
            return self.encode_pair(request.text, request.continuation), ""
        return self.chat.pair(request, request.context), self.chat.remark

    def encode_pair(
        self, context: str, continuation: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of context (with BOS, if the tokenizer adds it) and continuation.

        Where the tokenizer merges the beginning of the continuation into the context's last token,
        the split is before that token. A context without ids becomes lm-eval's prefix token.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        head = self._prefixes.encode(kept)
        whole = self._prefixes.encode_beside(kept + continuation)
        split = min(len(head), len(whole) - 1)
        first = head if whole[:split] == head else whole[:split]
        return first or self._prefix, whole[split:]

    def _windows(self, text: str) -> tuple[ScoreRequest, ...]:
        """Cut a text into disjoint windows as lm-eval does, each with one token of context."""
        windows = get_rolling_token_windows(
            token_list=self.tokenizer.encode(text, bos=False),
            prefix_token=prefix_id(self.tokenizer),
            max_seq_len=self.score_len,
            context_len=1,
        )
        return tuple(
            ScoreRequest(tuple(context), tuple(continuation))
            for context, continuation in map(make_disjoint_window, windows)
        )

    def _encode_prompt(self, request: Request) -> Encoded:
        settings = request.generation
        if settings.other:
            raise EngineError(
                f"The {self.identity.engine} engine does not support the generation setting "
                f"{settings.other[0][0]!r}; it supports do_sample, max_gen_toks, temperature, "
                "top_k, top_p and until. Use --engine hf for this task."
            )
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k)
        key = f"{self.seed}|{request.draw}" if settings.is_sampled else ""
        healing, remark = None, ""
        if isinstance(request.context, Messages) and self.chat is not None:
            prompt = self.chat.prompt(request, request.context)
            remark = self.chat.remark
        else:
            prompt = self._prefixes.encode(request.text) or self._prefix
            healing = self._borders.healing(request.text)
        whole = GenerateRequest(prompt, settings.max_tokens, sampling, key)
        with named(request):
            work, was_cut = truncate_prompt(whole, self.context_len)
        drawn = (sampling.temperature, sampling.top_p, sampling.top_k, key)
        ends = (list(settings.until), self.tokenizer.eos_ids)
        if healing and not self.heals:
            healing, remark = None, NOT_HEALED
        healed = ""
        if healing and work.max_tokens and len(work.prompt) > 1:
            healed, remark = healing.text, HEALED
            # the token that is drawn again counts as a new one and leaves the prompt
            work = replace(
                work,
                prompt=work.prompt[:-1],
                max_tokens=work.max_tokens + 1,
                first=healing.first,
            )
        # what decides the reply's text besides its ids
        rule = (healed,) if healed else (BEGINS,) if begins_reply(request) else ()
        parts = (self.seed, work.prompt, settings.max_tokens, *ends, *drawn, *rule)
        if settings.until:
            before = () if begins_reply(request) else work.prompt
            watch = watch_stops(settings.until, self.tokenizer, before, len(healed))
            work = replace(work, is_done=watch)
        return Encoded(request, parts, work, was_cut, healed, remark)


def watch_stops(
    until: Sequence[str], tokenizer: Tokenizer, prompt: Sequence[int], start: int = 0
) -> Callable[[Sequence[int]], bool]:
    """Return a function that tells whether a reply's ids so far contain a stop string.

    The reply begins after the first `start` characters of their text. Replies are lists that grow:
    another list is another reply to the same request.
    """
    stream: StreamText | None = None
    watched: Sequence[int] | None = None
    longest = max(map(len, until))
    seen, searched = 0, start

    def is_done(ids: Sequence[int]) -> bool:
        nonlocal seen, searched, stream, watched
        if stream is None or ids is not watched:  # only once the request is being computed
            stream, watched = StreamText(tokenizer, prompt), ids
            seen, searched = 0, start
        for new in ids[seen:]:
            stream.push(new)
        seen = len(ids)
        text = stream.text
        found = any(stop in text[searched:] for stop in until)
        searched = max(start, len(text) - longest)
        return found

    return is_done
