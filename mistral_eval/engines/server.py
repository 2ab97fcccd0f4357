"""The server engine: an OpenAI-compatible completions server answers.

Prompts are encoded here and sent as token ids where the server takes them. A probe before the first
question finds out what the server does (see `server_probe`). Sampled replies have seeds of their
own, so that no two samples of a run are one.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mistral_eval.engines.chat_ids import ChatIds, begins_reply
from mistral_eval.engines.http_client import Client
from mistral_eval.engines.http_thread import Job, call, replies_of
from mistral_eval.engines.interface import (
    Capabilities,
    Check,
    Encoded,
    Engine,
    EngineIdentity,
    Gold,
    Reply,
    Request,
    Say,
    Stop,
    never,
)
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.engines.native_twin import NativeTwin, is_comparable
from mistral_eval.engines.probe_asking import Found
from mistral_eval.engines.server_args import MAX_LENGTH, LocalModel, ServerArgs, read_local
from mistral_eval.engines.server_body import (
    Prompt,
    choices_body,
    first_body,
    generation_body,
    prompt_of,
    scoring_body,
    seed_of,
)
from mistral_eval.engines.server_failures import FAILURES, Failures
from mistral_eval.engines.server_identity import identity_of
from mistral_eval.engines.server_probe import probe
from mistral_eval.engines.server_reading import (
    check_prompt,
    read_choices,
    read_first,
    read_generation,
    read_values,
    sum_values,
)
from mistral_eval.errors import EngineError, UnansweredError, UsageError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.model.tokenizers.special import split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.settings import TINY, RunSettings

CHOICES: Final = 64  # tokens in one request for next tokens; vLLM takes 128
Answered = list[tuple[int, Reply]]


class ServerEncoder(NativeEncoder):
    """Encode requests for a server as the native engine does.

    Log-likelihoods leave two tokens of the context free: one is generated with them, and vLLM
    refuses a prompt that fills the context. Prompts are healed where the server `heals`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_len: int,
        seed: int,
        identity: EngineIdentity,
        chat: ChatIds | None = None,
        *,
        heals: bool,
    ) -> None:
        super().__init__(tokenizer, context_len, seed, identity, chat)
        self.score_len = context_len - 2
        self.heals = heals


class ServerEngine(ServerEncoder, Engine):
    """An engine that asks a server.

    Args:
        args: the server, and how many requests are in flight.
        found: what the probe found out.
        local: the model's tokenizer and its format of conversations.
        context_len, seed, identity: see `NativeEncoder`.
        twin: computes requests again, for `--verify`.
    """

    can = Capabilities(chat=True, plain_twin=True)
    twin = "with the native engine"

    def __init__(
        self,
        args: ServerArgs,
        found: Found,
        local: LocalModel,
        context_len: int,
        seed: int,
        identity: EngineIdentity,
        twin: NativeTwin | None = None,
    ) -> None:
        heals = found.traits.among
        super().__init__(local.tokenizer, context_len, seed, identity, local.chat, heals=heals)
        self._twin = twin
        self._endpoint = args.endpoint
        self._traits = found.traits
        self.can = Capabilities(
            scores="log-likelihoods" not in found.lacks,
            samples="independent samples" not in found.lacks,
            exact_text="exact text" not in found.lacks,
            chat=found.traits.takes_ids,  # a text cannot tell a control token from its name
            plain_twin=twin is not None,
            why=found.lacks,
        )

    @classmethod
    def check_settings(cls, settings: RunSettings) -> None:
        """Check the arguments, and that `--verify` has weights to compare with.

        Raises:
            UsageError: an argument cannot be, the URL is none, or there are no weights.
        """
        ServerArgs.of(settings)
        if settings.verify and not _has_weights(settings):
            raise UsageError(
                "--verify compares the server's replies with the native engine, and --model "
                f"{settings.model} is no folder or file here. Give the folder that is served, or "
                "leave --verify out."
            )

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "ServerEngine":
        """Find out what the server does, with about 40 short requests.

        Raises:
            EngineError: it cannot be reached, or serves another model or tokenizer.
            UsageError: an argument cannot be, or the context's length is not known.
        """
        del gold
        args = ServerArgs.of(settings)
        local = read_local(settings, args.tokenizer, say)
        say(f"Asking the server at {args.endpoint.url} what it can do.")
        found = call(
            args.endpoint,
            lambda client: probe(client, settings.model, local.tokenizer, local.bos_text),
        )
        context_len = args.max_length or found.context_len or local.context_len
        if context_len is None:
            raise UsageError(
                "The server does not say how many tokens its context has, and no configuration of "
                f"the model is at hand. Give `--model-args {MAX_LENGTH}=N`."
            )
        return cls(
            *(args, found, local, context_len, settings.seed),
            identity_of(args, found, local, context_len),
            NativeTwin(settings, settings.dtype) if _has_weights(settings) else None,
        )

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> ServerEncoder:
        """Return an encoder with the tokenizer that encoded for the server."""
        args, _ = split_tokenizer_args(settings.model_args)
        local = read_local(settings, args)
        about = (identity.context_len, settings.seed, identity, local.chat)
        heals = bool(identity.info["server"]["traits"].get("among"))  # unknown to earlier runs
        return ServerEncoder(local.tokenizer, *about, heals=heals)

    def checks(self, request: Request) -> bool:
        """Return whether `check` can compare the reply: of a generation by its token ids."""
        return is_comparable(request) and (request.kind != "generate" or self._traits.ids != "none")

    def check(self, encoded: Encoded, reply: Reply) -> Check:
        """Answer one request on the native engine's plain path and compare the replies."""
        assert self._twin is not None, "check_settings requires the weights"
        if encoded.request.kind == "generate" and reply.ids is None:
            return Check(is_compared=False)
        return self._twin.check(encoded, reply)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Ask the server, many requests at a time; yield each reply as it arrives.

        A request that fails after its repetitions does not end the others.

        Raises:
            UnansweredError: requests failed; raised after all others were answered.
            ServerError: the server is gone, or refuses every request.
        """
        if not encoded:
            return
        groups: list[tuple[int, ...]] = []
        jobs = self._jobs(encoded, known, groups)
        failures = Failures(max(FAILURES, self._endpoint.in_flight), stop)
        # what is in flight at the end is still answered, and paid for
        for number, outcome in replies_of(self._endpoint, jobs, failures.ends):
            if isinstance(outcome, EngineError):
                failures.add(groups[number], outcome)
            else:
                failures.in_a_row = 0
                yield from outcome
        if failures.ending is not None:
            raise failures.ending
        if failures.found and not stop():
            raise UnansweredError(failures.found)

    def _jobs(
        self,
        encoded: Sequence[Encoded],
        known: Collection[int],
        groups: list[tuple[int, ...]],
    ) -> Iterator[tuple[int, Job[Answered]]]:
        """Yield a job for each request, or for several that one question to the server answers.

        `groups` gets the indices of each job's requests.
        """
        asked = [index for index in range(len(encoded)) if index not in known]
        if encoded[0].request.kind == "generate":
            parts: list[tuple[int, ...]] = [(index,) for index in asked]
            make: Callable[[Sequence[Encoded], tuple[int, ...]], Job[Answered]] = self._generate
        elif encoded[0].request.kind == "rolling":
            parts, make = [(index,) for index in asked], self._roll
        else:
            parts, make = self._score_groups(encoded, asked), self._score
        for number, part in enumerate(parts):
            groups.append(part)
            yield number, make(encoded, part)

    def _generate(self, encoded: Sequence[Encoded], part: tuple[int, ...]) -> Job[Answered]:
        (index,) = part
        item = encoded[index]
        work: GenerateRequest = item.work
        if work.first:
            return self._heal(item, index)
        request, settings = item.request, item.request.generation
        text = None if item.truncated or _is_chat(request) else request.text
        prompt = prompt_of(self._traits, self.tokenizer, work.prompt, text)
        seed = seed_of(self.seed, request.draw) if settings.is_sampled else None
        body = generation_body(self._traits, prompt, settings, seed)
        is_whole = text is not None or self._traits.takes_ids

        async def job(client: Client) -> Answered:
            if not settings.max_tokens:  # which llama.cpp takes for no limit
                return [(index, Reply(ids=(), finish="length"))]
            reply = await client.post("/completions", body)
            if is_whole:
                check_prompt(reply, self._traits, work.prompt)
            before = () if begins_reply(request) else work.prompt
            read = read_generation(reply, self._traits, settings, self.tokenizer, before)
            if read.ids is None and begins_reply(request):
                read = replace(read, text=self._without_mark(read.text, work.prompt))
            return [(index, read)]

        return job

    def _heal(self, item: Encoded, index: int) -> Job[Answered]:
        """Draw a first token among those that continue the prompt's last one, then the rest."""
        work: GenerateRequest = item.work
        request, settings = item.request, item.request.generation

        def seed(part: str) -> int | None:
            return seed_of(self.seed, request.draw + part) if settings.is_sampled else None

        def prompt(ids: Sequence[int]) -> Prompt:
            return prompt_of(self._traits, self.tokenizer, ids, None)

        async def job(client: Client) -> Answered:
            body = first_body(
                self._traits, prompt(work.prompt), settings, seed("|first"), work.first
            )
            reply = await client.post("/completions", body)
            check_prompt(reply, self._traits, work.prompt)
            first = read_first(reply, self._traits, work.first)
            longer = (*work.prompt, first)
            reply = await client.post(
                "/completions", generation_body(self._traits, prompt(longer), settings, seed(""))
            )
            check_prompt(reply, self._traits, longer)
            rest = read_generation(reply, self._traits, settings, self.tokenizer, longer)
            ids = (first, *(rest.ids or ()))
            text = continuation_text(self.tokenizer, work.prompt, ids).removeprefix(item.healed)
            cut = settings.cut(text)
            finish = "stop" if len(cut) < len(text) else rest.finish
            return [(index, Reply(text=cut, ids=ids, finish=finish))]

        return job

    def _without_mark(self, text: str, prompt: Sequence[int]) -> str:
        """Remove the space that the server decodes from a first word's mark after the prompt."""
        word = self.tokenizer.encode("a", bos=False)
        after = continuation_text(self.tokenizer, prompt, word)
        alone = continuation_text(self.tokenizer, (), word)
        return text if after == alone else text.removeprefix(after.removesuffix(alone))

    def _score_groups(
        self, encoded: Sequence[Encoded], asked: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """Put choices of one token after one context together, if the server can answer them so."""
        if not self._traits.choices:
            return [(index,) for index in asked]
        groups: dict[object, list[int]] = defaultdict(list)
        for index in asked:
            work: ScoreRequest = encoded[index].work
            same = work.context if len(work.continuation) == 1 else index
            groups[same].append(index)
        return [
            tuple(members[start : start + CHOICES])
            for members in groups.values()
            for start in range(0, len(members), CHOICES)
        ]

    def _score(self, encoded: Sequence[Encoded], part: tuple[int, ...]) -> Job[Answered]:
        works: list[ScoreRequest] = [encoded[index].work for index in part]
        if not self._traits.choices or any(len(work.continuation) > 1 for work in works):
            (index,) = part
            return self._score_whole(encoded[index], index)
        tokens = list(dict.fromkeys(work.continuation[0] for work in works))
        context = works[0].context
        prompt = prompt_of(self._traits, self.tokenizer, context, None)
        body = choices_body(self._traits, prompt, tokens)

        async def job(client: Client) -> Answered:
            self._check_bos(context)
            reply = await client.post("/completions", body)
            check_prompt(reply, self._traits, context)
            scores = dict(zip(tokens, read_choices(reply, self._traits, tokens), strict=True))
            found = [scores[work.continuation[0]] for work in works]
            return [
                (index, Reply(score.logprob, score.is_greedy))
                for index, score in zip(part, found, strict=True)
            ]

        return job

    def _score_whole(self, item: Encoded, index: int) -> Job[Answered]:
        request = item.request
        is_whole = not (item.truncated or _is_chat(request))
        text = request.text + request.continuation if is_whole else None

        async def job(client: Client) -> Answered:
            logprob, is_greedy = await self._sum(client, item.work, text)
            return [(index, Reply(logprob, is_greedy))]

        return job

    def _roll(self, encoded: Sequence[Encoded], part: tuple[int, ...]) -> Job[Answered]:
        (index,) = part
        windows: tuple[ScoreRequest, ...] = encoded[index].work

        async def job(client: Client) -> Answered:
            sums = [(await self._sum(client, window))[0] for window in windows]
            return [(index, Reply(sum(sums)))]

        return job

    async def _sum(
        self, client: Client, work: ScoreRequest, text: str | None = None
    ) -> tuple[float, bool]:
        """Return the log-likelihood of a continuation, and whether it is the greedy one."""
        ids = (*work.context, *work.continuation)
        if text is None and not self._traits.takes_ids:
            raise EngineError(
                "it is longer than the server's context, and the server takes no token ids, so "
                "its end cannot be scored alone."
            )
        self._check_bos(ids)
        prompt = prompt_of(self._traits, self.tokenizer, ids, text)
        reply = await client.post("/completions", scoring_body(self._traits, prompt))
        check_prompt(reply, self._traits, ids)
        score = sum_values(read_values(reply, self._traits, ids), len(work.continuation))
        return score.logprob, score.is_greedy

    def _check_bos(self, ids: Sequence[int]) -> None:
        """Check that a prompt begins with BOS if the server puts one there in any case."""
        if self._traits.bos == "added" and ids[0] != self.tokenizer.bos_id:
            raise EngineError(
                "it is longer than the server's context, and the server puts BOS before what is "
                "left, so its end cannot be scored alone."
            )


def _is_chat(request: Request) -> bool:
    return isinstance(request.context, Messages)


def _has_weights(settings: RunSettings) -> bool:
    """Return whether the served model's weights are at hand."""
    return settings.model == TINY or Path(settings.model).exists()
