"""The native engine: our transformer with the checkpoint's tokenizer.

A reply is decoded together with its prompt and then cut, since decoding it alone loses
SentencePiece's leading space.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from mistral_eval.engines.chat_ids import ChatIds
from mistral_eval.engines.devices import choose_device
from mistral_eval.engines.interface import (
    Capabilities,
    Check,
    Encoded,
    Engine,
    EngineIdentity,
    Gold,
    PlanInputs,
    Reply,
    Say,
    Stop,
    never,
)
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.errors import RequestError, UsageError
from mistral_eval.model.load.adapter import Resolve, resolve_parts
from mistral_eval.model.load.by_layer import is_streamed
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.hub import resolve_model
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.outline import read_outline
from mistral_eval.model.memory import trim_heap
from mistral_eval.model.products import limit_kernels
from mistral_eval.model.tiny import tiny_model, tiny_tokenizer_file
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.model.tokenizers.special import split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import (
    ANY_VOCAB,
    Tokenizer,
    load_tokenizer,
)
from mistral_eval.native.calibrate import matrix_rate
from mistral_eval.native.choose_products import as_text, choose_ways
from mistral_eval.native.plain import PlainTwin
from mistral_eval.native.requests import (
    GenerateReply,
    ScoreRequest,
)
from mistral_eval.native.runner import ModelRunner, default_batch_tokens, generation_budget
from mistral_eval.native.stream import generating_sentence, streaming_sentence
from mistral_eval.native.work import Place
from mistral_eval.settings import AUTO, TINY, RunSettings

VERSION: Final = "1"  # part of the reply's key: raise it when the engine's numbers change
MEASURED_FROM: Final = 20.0  # seconds of work below which the machine's rate is not measured


class NativeEngine(NativeEncoder, Engine):
    """An engine that computes replies with our transformer.

    Args:
        runner: computes replies from token ids.
        tokenizer, context_len, seed, identity, chat: see `NativeEncoder`.
        say: receives the estimate before a generation with streamed layers.
    """

    can = Capabilities(chat=True, plain_twin=True)

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: Tokenizer,
        context_len: int,
        seed: int,
        identity: EngineIdentity,
        say: Say | None = None,
        chat: ChatIds | None = None,
    ) -> None:
        super().__init__(tokenizer, context_len, seed, identity, chat)
        self.runner = runner
        self._say = say
        self.counters = runner.stats

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "NativeEngine":
        """Load the run's checkpoint (see `open_native`)."""
        del gold
        say(f"Loading {settings.model} into the native engine.")
        return open_native(
            settings.model,
            adapter=settings.adapter,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            batch_tokens=settings.batch_tokens,
            stream_layers=settings.stream_layers,
            seed=settings.seed,
            say=say,
            model_args=settings.model_args,
            choices=settings.choices,
            chat_template=settings.chat_template,
        )

    @classmethod
    def encoder(
        cls, settings: RunSettings, identity: EngineIdentity, resolve: Resolve = resolve_model
    ) -> NativeEncoder:
        """Return an encoder with the tokenizer of the run's model, which `resolve` finds.

        Raises:
            TokenizerError, HubError: the tokenizer cannot be read.
        """
        args, _ = split_tokenizer_args(settings.model_args)
        if settings.model == TINY:
            base = tiny_tokenizer_file()
        else:
            parts = resolve_parts(
                settings.model, settings.adapter, revision=settings.revision, resolve=resolve
            )
            base, args = parts.base, args.beside(parts.tokenizer)
        rows = identity.info.get("embedding_rows", ANY_VOCAB)  # none in runs of 0.2
        tokenizer = load_tokenizer(base, expected_vocab=rows, args=args)
        chat = ChatIds(tokenizer, settings.chat_template, base, args.file or base)
        return NativeEncoder(tokenizer, identity.context_len, settings.seed, identity, chat)

    @classmethod
    def plan_inputs(cls, settings: RunSettings, say: Say) -> PlanInputs:
        """Read configuration and tokenizer, and choose device, dtype and budget as a run would."""
        device = choose_device(settings.device)
        outline = read_outline(
            settings.model,
            adapter=settings.adapter,
            revision=settings.revision,
            dtype=settings.dtype,
            device=device,
            overrides=settings.model_args,
            say=say,
        )
        config, dtype = outline.config, outline.dtype
        is_in_files = settings.model != TINY and not outline.is_tuned
        streams = is_in_files and is_streamed(config, dtype, device, asked=settings.stream_layers)
        tokens = settings.batch_tokens or default_batch_tokens(
            config, dtype, device, is_streamed=streams
        )
        budget = generation_budget(config, dtype, device, tokens, is_streamed=streams)
        chat = ChatIds(outline.tokenizer, settings.chat_template, *outline.places)
        encoder = NativeEncoder(
            outline.tokenizer, config.context_len, settings.seed, EngineIdentity("native"), chat
        )
        ways = choose_ways(config, dtype, device)
        place = Place(config, dtype, device, budget, is_streamed=streams, ways=ways)
        return PlanInputs(encoder, place, outline.tokenizer.n_words)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Compute replies with the runner, and decode generated ids."""
        if not encoded:
            return
        self.runner.stopping = stop
        work = [item.work for item in encoded]
        kind = encoded[0].request.kind
        if kind == "score":
            for index, score in self.runner.score(work, known):
                yield index, Reply(logprob=score.logprob, is_greedy=score.is_greedy)
        elif kind == "rolling":
            yield from self._answer_rolling(work, known)
        else:
            if self._say and (cost := self.runner.forecast(work, known)):
                self._say(generating_sentence(cost))
            for index, reply in self.runner.generate(work, known):
                yield index, self.decode(encoded[index], reply.ids, reply.finish)

    def _answer_rolling(
        self, texts: Sequence[tuple[ScoreRequest, ...]], known: Collection[int]
    ) -> Iterator[tuple[int, Reply]]:
        owners = [owner for owner, windows in enumerate(texts) for _ in windows]
        missing = [len(windows) for windows in texts]
        sums = [0.0] * len(texts)
        flat = [window for windows in texts for window in windows]
        for owner, windows in enumerate(texts):
            if not windows and owner not in known:
                yield owner, Reply()
        of_known = {window for window, owner in enumerate(owners) if owner in known}
        try:
            for index, score in self.runner.score(flat, of_known):
                owner = owners[index]
                sums[owner] += score.logprob
                missing[owner] -= 1
                if not missing[owner]:
                    yield owner, Reply(logprob=sums[owner])
        except RequestError as error:
            raise RequestError("rolling", owners[error.index], error.what) from error

    @cached_property
    def _twin(self) -> PlainTwin:
        return PlainTwin(self.runner.model, self.runner.eos_ids)

    def check(self, encoded: Encoded, reply: Reply) -> Check:
        """Recompute one request alone on the plain path and compare the replies."""
        return self.compare(encoded, reply)

    def compare(self, encoded: Encoded, reply: Reply, *, is_other: bool = False) -> Check:
        """Compare a reply with the plain path.

        Args:
            encoded: the request.
            reply: this engine's reply, or another engine's.
            is_other: whether another engine replied: it may also draw another token, and find
                another one greedy, where rounding decides.
        """
        twin, work = self._twin, encoded.work
        if encoded.request.kind == "generate":
            finish: Any = reply.finish
            parting = twin.parting(work, GenerateReply(reply.ids or (), finish), is_other=is_other)
            if parting is None or parting.is_tie:
                return Check(is_tie=parting is not None)
            if is_other and self._stops_before(encoded, reply, parting.rest):
                return Check()
            said, plain = parting.ours, parting.plain
            return Check(fault=f"has the token {said} at step {parting.step} in this run, {plain}")
        windows = (work,) if encoded.request.kind == "score" else work
        replies = [twin.score(window) for window in windows]
        plain_sum = sum(one.logprob for one in replies)
        difference = abs(plain_sum - reply.logprob)
        tokens = sum(len(window.continuation) for window in windows)
        tolerance = twin.tolerance(tokens, is_other=is_other)
        fault = ""
        if not difference <= tolerance:  # so that NaN is a fault
            fault = (
                f"has the log-probability {reply.logprob:.6f} in this run, {plain_sum:.6f} "
                f"(tolerance {tolerance:.6f})"
            )
        is_exact = encoded.request.kind == "score" and twin.is_exact and not is_other
        if not fault and is_exact and reply.is_greedy != replies[0].is_greedy:
            fault = f"{'is' if reply.is_greedy else 'is not'} greedy in this run, the opposite"
        return Check(difference, tolerance, fault=fault)

    def _stops_before(self, encoded: Encoded, reply: Reply, rest: Sequence[int]) -> bool:
        """Return whether a reply lacks only the tokens from its stop string on (llama.cpp)."""
        if reply.finish != "stop" or not rest:
            return False
        ids = (*(reply.ids or ()), *rest)
        whole = continuation_text(self.tokenizer, encoded.work.prompt, ids)
        cut = encoded.request.generation.cut(whole)
        return cut == reply.text != whole

    def speed(self) -> Mapping[str, Any]:
        """Return the speed of scoring and generation in this process.

        Returns:
            For "score" and "generate": tokens per second, useful FLOP per second (None if nothing
            was computed) and their share of `matrix_flop_per_second`. That is the rate of square
            matrix products in the model's dtype on its device; it is None after less than
            `MEASURED_FROM` seconds of work.
        """
        stats, model = self.runner.stats, self.runner.model
        scoring, generating = stats.score_seconds, stats.generate_seconds
        is_long = scoring + generating >= MEASURED_FROM
        rate = matrix_rate(model.dtype, model.device) if is_long else None
        return {
            "matrix_flop_per_second": rate,
            "score": {
                "tokens_per_second": _per(stats.score_computed, scoring),
                "flop_per_second": _per(stats.score_flop, scoring),
                "share": _share(stats.score_flop, scoring, rate),
            },
            "generate": {
                "prompt_tokens_per_second": _per(stats.prompt_computed, generating),
                "decoded_tokens_per_second": _per(stats.generated, generating),
                "flop_per_second": _per(stats.generate_flop, generating),
                "share": _share(stats.generate_flop, generating, rate),
            },
        }


def open_native(  # noqa: PLR0913 - one argument per setting of a run
    pretrained: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    stream_layers: bool | None = None,
    seed: int = 0,
    say: Say | None = None,
    model_args: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
    chat_template: str = AUTO,
) -> NativeEngine:
    """Load a checkpoint and its tokenizer into the native engine.

    Args:
        pretrained: a hub id, a folder, a GGUF file, or `tiny`; a whole model, or
            a LoRA adapter.
        adapter: a LoRA adapter to merge into `pretrained`: a hub id or a folder.
        revision: branch, tag or commit of a hub id.
        dtype: `auto` (as stored), float32, bfloat16 or float16.
        device: `auto` (cuda if available), or a device's name in torch.
        batch_tokens: tokens per forward pass; None chooses by device and memory.
        stream_layers: read the weights a layer at a time; None: where they do not fit in memory.
        seed: random seed for sampling.
        say: receives messages about downloads; None writes them to stderr.
        model_args: values that the checkpoint's files do not state, e.g. rope_theta; and
            `tokenizer` and `add_bos_token` (see `TokenizerArgs`). Text is read by `parse_value`.
        choices: the engine's `choices` when the run began; None measures how to multiply.
        chat_template: how conversations are encoded: auto, mistral, folder or a template's file.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError: it cannot be loaded.
    """
    limit_kernels()
    where = choose_device(device)
    args, fields = split_tokenizer_args(model_args or {})
    if pretrained == TINY:
        if fields:
            raise UsageError(
                f"--model tiny takes no --model-args but add_bos_token. Leave {min(fields)} out."
            )
        checkpoint, base = tiny_model(dtype, where), tiny_tokenizer_file()
    else:
        parts = resolve_parts(pretrained, adapter, revision=revision, say=say)
        checkpoint = load_checkpoint(
            parts.base,
            adapter=parts.adapter,
            dtype=dtype,
            device=where,
            overrides=fields,
            stream_layers=stream_layers,
        )
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *parts.notes))
        base, args = parts.base, args.beside(parts.tokenizer)
    config = checkpoint.config
    tokenizer = load_tokenizer(base, expected_vocab=config.vocab_size, args=args)
    notes = (*checkpoint.notes, *tokenizer.notes)
    if tokenizer.n_words < config.vocab_size:
        surplus = config.vocab_size - tokenizer.n_words
        said = (
            f"{surplus} embedding rows without a token are never predicted: probabilities are "
            "those of the tokens (lm-eval's hf counts such rows)"
        )
        notes = (*notes, said)
    first = checkpoint.weights["tok_embeddings.weight"]
    ways = choose_ways(config, first.dtype, where, choices)
    runner = ModelRunner(
        config,
        checkpoint.weights,
        n_words=tokenizer.n_words,
        eos_ids=tokenizer.eos_ids,
        batch_tokens=batch_tokens,
        layers=checkpoint.layers,
        ways=ways,
        takes=True,
    )
    trim_heap()  # of what loading and measuring took
    if say and checkpoint.layers is not None:
        say(streaming_sentence(config, runner.model.dtype, where, is_asked=bool(stream_layers)))
    stored = str(first.dtype)
    identity = EngineIdentity(
        "native",
        VERSION,
        checkpoint.fingerprint,
        tokenizer.fingerprint,
        stored,
        where.type,
        info={
            "model_num_parameters": sum(map(math.prod, expected_shapes(config).values())),
            "model_dtype": stored,
            "model_revision": revision or "",
            "max_length": config.context_len,
            "embedding_rows": config.vocab_size,
        },
        notes=tuple(notes),
    )
    chat = ChatIds(tokenizer, chat_template, base, args.file or base)
    engine = NativeEngine(runner, tokenizer, config.context_len, seed, identity, say, chat)
    engine.choices = as_text(ways)
    return engine


def _per(count: float, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def _share(flop: float, seconds: float, rate: float | None) -> float | None:
    achieved = _per(flop, seconds)
    return achieved / rate if achieved and rate else None
