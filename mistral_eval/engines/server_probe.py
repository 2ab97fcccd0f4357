"""Find out what a completions server does, before the first question is asked.

Servers accept fields without effect, add BOS, shift log-probabilities by a position, and say
nothing. So no field is believed: a few short texts are asked in ways whose answers can be checked
against each other. What a server does wrong is worked around with a note, or what it cannot do is
named (see `Found.lacks`).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from mistral_eval.engines.http_client import Client, ServerError
from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.engines.server_body import (
    WANT_IDS,
    Bos,
    Ids,
    Prompt,
    Scoring,
    Traits,
    choices_body,
    count_of,
    generation_body,
    only_choice,
    prompt_of,
    read_choices,
    read_generation,
    read_values,
    reply_ids,
    reply_logprobs,
    scoring_body,
)
from mistral_eval.errors import EngineError
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

TEXTS: Final = (
    "The capital of France is",
    "def add(a, b):\n    return a",
    "Question: How much is 12 times 12?\nAnswer:",
    "Ein kurzer Satz \u00fcber B\u00e4ume, 27 St\u00fcck:",
)
TAIL: Final = " and so on."
PATTERN: Final = "a b c d e a b c d e a b c d e a b c d"  # after which " e" comes
NO_NAME: Final = "a name that no model has"
STOPS: Final = tuple(f"\n#{n}#" for n in range(16))  # strings that no reply has
DRAWS: Final = 8
HOT: Final = GenerationSettings(max_tokens=12, temperature=1.5)
GREEDY: Final = GenerationSettings(max_tokens=8)
TOLERANCE: Final = 0.1  # nats, by which one value may differ in bfloat16 between two ways to ask
OFFSETS: Final = (0, 1, -1, 2, -2)
# Statuses of a request that a server does not understand; llama.cpp's answers 500 to token ids.
_NOT_UNDERSTOOD: Final = frozenset({400, 404, 422, 500, 501})
_OWN_FAULT: Final = 500  # statuses from here on may have another cause than the request


# A reply, the prompt's ids, the place of a token whose log-probability is known, and that value.
_Scored: TypeAlias = tuple[Any, Sequence[int], int, float]


@dataclass(slots=True)
class Found:
    """What the probe found out.

    Attributes:
        traits: how the server is asked and read.
        version: program and version, if the server tells them; else empty.
        context_len: its context in tokens; None if it does not say.
        info: further findings for run.json.
        notes: what is worked around, for the table.
        lacks: what it cannot do ("log-likelihoods", "independent samples", "exact text"), and why.
    """

    traits: Traits
    version: str = ""
    context_len: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)


async def probe(client: Client, model: str, tokenizer: Tokenizer, bos_text: str) -> Found:
    """Ask a server about 40 short requests and return what it does.

    Args:
        client: its client.
        model: the value of `--model`: the served name, or the folder that is served.
        tokenizer: the model's tokenizer.
        bos_text: BOS as text, for servers that take no token ids.

    Raises:
        EngineError: it serves another model, or tokens that are not this tokenizer's.
    """
    prober = _Prober(client, tokenizer, bos_text)
    await prober.identify(model)
    await prober.find_prompt_form()
    await prober.check_tokenizer()
    await prober.find_extras()
    await prober.find_stops()
    await prober.find_sampling()
    await prober.find_first_space()
    await prober.find_scoring()
    return prober.found


class _Prober:
    """The steps of the probe; each adds to `found`."""

    def __init__(self, client: Client, tokenizer: Tokenizer, bos_text: str) -> None:
        self._client = client
        self._tokenizer = tokenizer
        self._bos_text = bos_text
        self._bos: Bos = "sent" if tokenizer.adds_bos else "none"
        self.found = Found(Traits(""))

    @property
    def _traits(self) -> Traits:
        return self.found.traits

    def _learn(self, **traits: Any) -> None:
        self.found.traits = replace(self.found.traits, **traits)

    # ---------------------------------------------------------------- asking

    async def _try(self, body: Mapping[str, Any]) -> Any:
        """Return a reply, or None where the server does not understand the request.

        A server that fails for a plain request too is in trouble, and says nothing about this one.

        Raises:
            ServerError: it is in trouble.
        """
        try:
            return await self._client.post("/completions", body, retries=2)
        except ServerError as error:
            if error.status not in _NOT_UNDERSTOOD:
                raise
            if error.status < _OWN_FAULT:
                return None
            try:
                await self._client.post("/completions", self._plain_body(TEXTS[0]), retries=0)
            except ServerError:
                raise error from None
        try:
            return await self._client.post("/completions", body, retries=0)
        except ServerError as error:
            if error.status not in _NOT_UNDERSTOOD:
                raise
            return None

    def _plain_body(self, prompt: str) -> dict[str, Any]:
        """Return a request that every server understands."""
        return {
            "model": self._traits.model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
        }

    async def _ask(self, body: Mapping[str, Any]) -> Any:
        return await self._client.post("/completions", body, retries=2)

    async def _generate(
        self, text: str, settings: GenerationSettings = GREEDY, seed: int | None = None
    ) -> Any:
        return await self._ask(generation_body(self._traits, self._prompt(text), settings, seed))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=self._tokenizer.adds_bos)

    def _prompt(self, text: str) -> Prompt:
        return prompt_of(self._traits, self._tokenizer, self._ids(text), text)

    def _text(self, reply: Any, text: str, settings: GenerationSettings = GREEDY) -> str:
        return read_generation(reply, self._traits, settings, self._tokenizer, self._ids(text)).text

    # ---------------------------------------------------------------- model

    async def identify(self, model: str) -> None:
        """Find the model among those that the server lists, or by its name alone.

        transformers' server lists other models than the one it was started with, or fails to list.
        """
        url = self._client.endpoint.url
        failed: EngineError | None = None
        listed: Any = {}
        try:
            listed = await self._client.get("/models", retries=1)
        except ServerError as error:
            if error.status in (None, 401, 403):
                raise
            failed = error
        data = listed.get("data") if isinstance(listed, dict) else None
        rows = [one for one in data or () if isinstance(one, dict) and "id" in one]
        row = _row_of(rows, model)
        if row is None and await self._answers_as(model):
            row = {"id": model}
            self.found.notes.append("the server does not list its model; it knows it by name")
        if row is None:
            names = ", ".join(sorted(str(one["id"]) for one in rows)[:5])
            raise failed or EngineError(
                f"The server at {url} serves {names or 'no model'}, and --model is {model}. Give "
                "the served name as --model, with `--model-args tokenizer=FOLDER`, or serve this "
                "model."
            )
        self._learn(model=str(row["id"]))
        self.found.context_len = _context_of(row)
        self.found.info["listed"] = {
            name: row[name] for name in ("root", "owned_by", "max_model_len", "meta") if name in row
        }
        self.found.version = await self._version()

    async def _answers_as(self, model: str) -> bool:
        """Return whether the server answers under this name and not under any name."""
        for name, is_wanted in ((model, True), (NO_NAME, False)):
            body = {"model": name, "prompt": TEXTS[0], "max_tokens": 1, "temperature": 0.0}
            try:
                await self._client.post("/completions", body, retries=1)
            except ServerError as error:
                if error.status is None:
                    raise
                if is_wanted:
                    return False
            else:
                if not is_wanted:
                    return False
        return True

    async def _version(self) -> str:
        """Return the program and its version, if it is vLLM or llama.cpp; else ""."""
        root = self._client.endpoint.url.removesuffix("/v1")
        pages = {"version": ("vLLM", "version"), "props": ("llama.cpp", "build_info")}
        for page, (program, name) in pages.items():
            try:
                said = await self._client.get(f"{root}/{page}", retries=0)
            except EngineError:  # there is no such page
                continue
            if isinstance(said, dict) and said.get(name):
                return f"{program} {said[name]}"
        return ""

    # ---------------------------------------------------------------- prompts

    async def find_prompt_form(self) -> None:
        """Find out whether prompts may be token ids, and how BOS comes before them."""
        self._learn(bos=self._bos)
        ids = self._ids(TEXTS[0])
        self._learn(takes_ids=True)
        reply = await self._try(generation_body(self._traits, list(ids), GREEDY, None))
        used = count_of(reply, "prompt_tokens")
        if reply is not None and used is not None and used - len(ids) in (0, 1):
            self._check_name(reply)
            if used == len(ids) + 1:
                await self._leave_bos_to_server(ids)
            return
        self._learn(takes_ids=False)
        self.found.notes.append(
            "the server takes prompts as text only and makes its own token ids of them"
        )
        await self._find_text_bos()

    async def _leave_bos_to_server(self, ids: Sequence[int]) -> None:
        """Leave BOS out of token ids for a server that adds one to them."""
        if self._bos == "none":
            raise EngineError(
                "The server puts BOS before token ids, and this model's tokenizer begins no text "
                "with BOS. Start the server so that it leaves token ids as they are."
            )
        self._learn(bos="added")
        prompt = prompt_of(self._traits, self._tokenizer, ids, None)
        reply = await self._ask(generation_body(self._traits, prompt, GREEDY, None))
        if count_of(reply, "prompt_tokens") != len(ids):
            raise EngineError(
                "The server adds tokens to prompts of token ids, and not only BOS. Start the "
                "server so that it leaves token ids as they are."
            )
        self.found.notes.append(
            "the server puts BOS before token ids too, so prompts are sent without theirs"
        )

    async def _find_text_bos(self) -> None:
        """Find out whether the server puts BOS before a text, or reads it where it is written."""
        bare = len(self._tokenizer.encode(TEXTS[0], bos=False))
        reply = await self._ask(self._plain_body(TEXTS[0]))
        self._check_name(reply)
        used = count_of(reply, "prompt_tokens")
        if used is None:
            self._learn(bos="added" if self._bos == "sent" else "none")
            self.found.notes.append(
                "the server does not count tokens, so it is not known whether it puts BOS before "
                "a prompt"
            )
            return
        added = used - bare
        if added == 1 and self._bos == "sent":
            self._learn(bos="added")
        elif added == 1:
            self.found.notes.append(
                "the server puts BOS before each prompt, which this model's tokenizer does not: "
                "scores may differ from those of other engines"
            )
        elif added == 0 and self._bos == "sent":
            await self._write_bos(bare)

    async def _write_bos(self, bare: int) -> None:
        """Write BOS as text for a server that adds none, if it reads it as BOS."""
        reply = await self._ask(self._plain_body(self._bos_text + TEXTS[0]))
        if count_of(reply, "prompt_tokens") == bare + 1:
            self._learn(bos_text=self._bos_text)
            self.found.notes.append(f"BOS is sent as the text {self._bos_text}")
            return
        self._learn(bos="none")
        self.found.notes.append(
            "the server puts no BOS before a prompt, as this model's tokenizer does, and takes "
            "none: scores may differ from those of other engines"
        )

    def _check_name(self, reply: Any) -> None:
        """Check that the model that was asked has answered; some servers write it otherwise."""
        name = reply.get("model") if isinstance(reply, dict) else None
        root = self.found.info.get("listed", {}).get("root")
        plain = str(name).partition("@")[0]
        if (
            name
            and name != self._traits.model
            and (self._traits.model in (plain, plain.rpartition("/")[2]) or name == root)
        ):
            self._learn(answers_as=str(name))
        only_choice(reply, self._traits)

    async def check_tokenizer(self) -> None:
        """Compare the numbers of tokens that the server makes of texts with our tokenizer's."""
        extra = set()
        for text in TEXTS:
            reply = await self._ask(self._plain_body(text))
            used = count_of(reply, "prompt_tokens")
            if used is None:
                return
            extra.add(used - len(self._tokenizer.encode(text, bos=False)))
        if len(extra) > 1 or extra - {0, 1}:
            raise EngineError(
                f"The server at {self._client.endpoint.url} makes other tokens of a text than the "
                f"tokenizer here ({self._tokenizer.kind}) does. Give the served model's own with "
                "`--model-args tokenizer=FOLDER`."
            )

    # ---------------------------------------------------------------- replies

    async def find_extras(self) -> None:
        """Find out whether fields beyond OpenAI's are accepted, and whether replies have ids."""
        plain = await self._generate(TEXTS[1])
        used = count_of(plain, "prompt_tokens")
        if used is not None:
            self._learn(surplus=used - len(self._ids(TEXTS[1])))
        self._learn(extras=True)
        body = generation_body(self._traits, self._prompt(TEXTS[1]), GREEDY, None)
        reply = await self._try({**body, **WANT_IDS})
        if reply is None:
            self._learn(extras=False)
            self.found.notes.append(
                "the server refuses fields beyond OpenAI's, so its own top-k, min-p and repetition "
                "penalty apply"
            )
            return
        if not self._holds_ids(reply, "token_ids"):
            named = {**body, "logprobs": 1, "return_tokens_as_token_ids": True}
            other = await self._try(named)
            places: tuple[Ids, ...] = ("names", "content") if other is not None else ()
            for place in places:
                if self._holds_ids(other, place):
                    break
        if self._text(await self._generate(TEXTS[1]), TEXTS[1]) != self._text(
            await self._generate(TEXTS[1]), TEXTS[1]
        ):
            self.found.notes.append("the server's greedy replies differ from call to call")

    def _holds_ids(self, reply: Any, where: Ids) -> bool:
        """Learn where a reply has its ids, if our tokenizer makes its text of them."""
        told = replace(self._traits, ids=where)
        choice = only_choice(reply, told)
        text = str(choice.get("text"))
        try:
            ids = reply_ids(choice, told)
        except EngineError:
            return False
        if not ids:
            return False
        own = read_generation(reply, told, GREEDY, self._tokenizer, self._ids(TEXTS[1])).text
        if own.strip() != text.strip() and "\N{REPLACEMENT CHARACTER}" not in own + text:
            raise EngineError(
                f"The server's token ids are {own!r} in the tokenizer here ({self._tokenizer.kind})"
                f", and the server says {text!r}. Give the served model's own tokenizer with "
                "`--model-args tokenizer=FOLDER`."
            )
        self._learn(ids=where)
        return True

    async def find_stops(self) -> None:
        """Find out how many stop strings are taken, and whether they end a reply."""
        for number in (16, 8, 4, 2, 1, 0):
            self._learn(stops=number)
            settings = replace(GREEDY, max_tokens=2, until=STOPS[:number])
            body = generation_body(self._traits, self._prompt(TEXTS[0]), settings, None)
            if await self._try(body) is not None:
                break
        long = replace(GREEDY, max_tokens=16)
        whole = only_choice(await self._generate(TEXTS[2], long), self._traits).get("text") or ""
        middle = whole[len(whole) // 3 :][:3]
        if not middle.strip() or not self._traits.stops:
            return
        until = replace(long, until=(middle,))
        cut = only_choice(await self._generate(TEXTS[2], until), self._traits).get("text") or ""
        expected = until.cut(whole)
        if cut.strip() == expected.strip():
            how = "honoured"
        elif len(cut) < len(whole) and cut.rstrip().endswith(middle.rstrip()):
            how = "kept"
        else:
            how = "ignored"
            self.found.notes.append(
                "the server ignores stop strings: replies are cut here, and take longer"
            )
        self.found.info["stop_strings"] = how

    async def find_sampling(self) -> None:
        """Find out whether temperature and seed have an effect."""
        seeds = (1, 1, *range(2, DRAWS))
        replies = [await self._generate(TEXTS[0], HOT, seed) for seed in seeds]
        draws = [self._text(reply, TEXTS[0], HOT) for reply in replies]
        counts = {count_of(one, "prompt_tokens") for one in replies}
        if counts != {(self._traits.surplus or 0) + len(self._ids(TEXTS[0]))}:
            # e.g. it counts only what it has not cached
            self._learn(surplus=None)
        varies = len(set(draws)) > 1
        repeats = draws[0] == draws[1]
        self.found.info |= {"temperature_honoured": varies, "seed_honoured": varies and repeats}
        if not varies:
            self.found.lacks["independent samples"] = (
                f"{DRAWS} samples at temperature {HOT.temperature:g} were {DRAWS} equal replies"
            )
        elif not repeats:
            self.found.notes.append(
                "the server ignores seeds: a new run draws other samples (the samples of this run "
                "are independent, and resuming keeps them)"
            )

    async def find_first_space(self) -> None:
        """Find out whether a reply that is text keeps its first space."""
        if self._traits.ids != "none":
            return
        expected = PATTERN[PATTERN.index("e")]
        texts = [self._text(await self._generate(text), text) for text in (*TEXTS, PATTERN)]
        keeps = any(text[:1].isspace() for text in texts)
        self.found.info["first_space"] = "kept" if keeps else "not seen"
        if not keeps:
            shown = "lost" if texts[-1].startswith(expected) else "not seen"
            self.found.info["first_space"] = shown
            self.found.lacks["exact text"] = (
                "its replies are text without their first space, so the indentation of a program "
                "is lost"
            )

    # ---------------------------------------------------------------- scoring

    async def find_scoring(self) -> None:
        """Find out how log-probabilities of a prompt are returned, and whether they are exact.

        A greedy reply of one token has a log-probability. The same token at the same place of a
        prompt must have the same one, at the end of the prompt and within it.
        """
        told = await asyncio.gather(*map(self._truth, TEXTS))
        truth = [one for one in told if one is not None]
        reasons = []
        if len(truth) < 2:
            reasons.append("it returns no log-probabilities")
        else:
            ways: tuple[Scoring, ...] = ("prompt_logprobs", "echo")
            for scoring in ways:
                reason = await self._try_scoring(scoring, truth)
                if not reason:
                    await self._find_choices()
                    return
                reasons.append(reason)
        self._learn(scoring="none", offset=0)
        self.found.lacks["log-likelihoods"] = reasons[-1]

    async def _truth(self, text: str) -> tuple[str, int, float] | None:
        """Return a text, the id of the likeliest next token and its log-probability.

        None if the server does not tell.
        """
        body = generation_body(
            self._traits, self._prompt(text), replace(GREEDY, max_tokens=1), None
        )
        reply = await self._try({**body, "logprobs": 1})
        if reply is None:
            return None
        choice = only_choice(reply, self._traits)
        values = reply_logprobs(choice)
        if not values or not isinstance(values[-1], float | int):
            return None
        found = reply_ids(choice, self._traits)
        if found is not None:
            token = found[-1] if found else None
        else:
            head = self._ids(text)
            whole = self._ids(text + str(choice.get("text", "")))
            token = whole[-1] if whole[:-1] == head else None
        if token is None or token in self._tokenizer.eos_ids:
            return None
        return text, token, float(values[-1])

    async def _try_scoring(self, scoring: Scoring, truth: Sequence[tuple[str, int, float]]) -> str:
        """Learn a way of scoring and return "", or return why it cannot be used."""
        self._learn(scoring=scoring, offset=0)
        if scoring == "echo" and not self._traits.takes_ids and self._traits.surplus is None:
            return "it takes text only and does not count its tokens, so they may be others"
        replies: list[_Scored] = []
        for ids, place, value in self._cases(truth):
            prompt = self._scored_prompt(ids)
            if prompt is None:
                continue
            reply = await self._try(scoring_body(self._traits, prompt))
            if reply is None:
                return f"it does not answer a request with {scoring}"
            replies.append((reply, ids, place, value))
        if not replies:
            return "its tokens cannot be matched with those of the tokenizer here"
        for offset in OFFSETS:
            told = replace(self._traits, offset=offset)
            if all(_agrees(told, *one) for one in replies):
                if _is_all_greedy(told, replies):
                    return "it calls every token of a prompt the most likely one"
                self._learn(offset=offset)
                self._note_offset(offset)
                return ""
        return _why_not(self._traits, [reply for reply, *_ in replies])

    def _cases(
        self, truth: Sequence[tuple[str, int, float]]
    ) -> Iterator[tuple[tuple[int, ...], int, float]]:
        """Yield ids, the place of a token whose log-probability is known, and that value."""
        for text, token, value in truth:
            head = self._ids(text)
            for tail in ((), tuple(self._tokenizer.encode(TAIL, bos=False))):
                yield (*head, token, *tail), len(head), value

    def _note_offset(self, offset: int) -> None:
        # an echo of a text without BOS is no mistake
        if offset not in (0, 0 if self._traits.takes_ids else 1):
            self.found.notes.append(
                "the server returns the log-probabilities of a prompt at places that are off by "
                f"{abs(offset)}, which is put right here"
            )

    def _scored_prompt(self, ids: Sequence[int]) -> Prompt | None:
        """Return a prompt of these ids; None if the server takes text and makes others of it."""
        prompt = prompt_of(self._traits, self._tokenizer, ids, None)
        if isinstance(prompt, str):
            written = prompt.removeprefix(self._traits.bos_text)
            if tuple(self._ids(written)) != tuple(ids):
                return None
        return prompt

    async def _find_choices(self) -> None:
        """Find out whether the log-probabilities of given next tokens can be asked.

        They must be those of the tokens at the end of a prompt.
        """
        if not self._traits.takes_ids or not self._traits.extras:
            return
        head = self._ids(TEXTS[2])
        tokens = [self._tokenizer.encode(text, bos=False)[-1] for text in (" A", " B", " 1", " x")]
        reply = await self._try(choices_body(self._traits, self._prompt(TEXTS[2]), tokens))
        if reply is None:
            return
        try:
            scores = read_choices(reply, self._traits, tokens)
        except EngineError:  # an unknown field has no effect
            return
        for token, score in zip(tokens, scores, strict=True):
            ids = (*head, token)
            prompt = prompt_of(self._traits, self._tokenizer, ids, None)
            told = await self._ask(scoring_body(self._traits, prompt))
            exact = read_values(told, self._traits, ids)[-1]
            if exact is None or abs(exact[0] - score.logprob) > TOLERANCE:
                return
        self._learn(choices=True)


def _agrees(traits: Traits, reply: Any, ids: Sequence[int], place: int, value: float) -> bool:
    """Return whether the token at a place has this value, as the most likely one."""
    try:
        found = read_values(reply, traits, ids)[place]
    except EngineError:
        return False
    return found is not None and abs(found[0] - value) <= TOLERANCE and found[1]


def _why_not(traits: Traits, replies: Sequence[Any]) -> str:
    """Return why the log-probabilities of prompts that a server returns cannot be used."""
    if all(_holds_no_tops(traits, reply) for reply in replies):
        return "it does not tell the most likely token at each place of a prompt"
    if all(_holds_nothing(traits, reply) for reply in replies):
        return f"it accepts {traits.scoring} and returns no log-probabilities of the prompt"
    return (
        f"its log-probabilities of a prompt (by {traits.scoring}) are not those of the tokens that "
        "it generates"
    )


def _is_all_greedy(traits: Traits, replies: Sequence[_Scored]) -> bool:
    """Return whether each token of a fixed text counts as the most likely one."""
    flags = [
        is_top
        for reply, ids, place, _ in replies
        for _, is_top in filter(None, read_values(reply, traits, ids)[place + 1 :])
    ]
    return bool(flags) and all(flags)


def _holds_no_tops(traits: Traits, reply: Any) -> bool:
    logprobs = only_choice(reply, traits).get("logprobs") or {}
    is_valued = traits.scoring == "echo" and len(logprobs.get("token_logprobs") or ()) > 1
    return is_valued and not any(logprobs.get("top_logprobs") or ())


def _holds_nothing(traits: Traits, reply: Any) -> bool:
    choice = only_choice(reply, traits)
    if traits.scoring == "prompt_logprobs":
        return not choice.get("prompt_logprobs")
    # one value is that of the generated token
    return len((choice.get("logprobs") or {}).get("token_logprobs") or ()) <= 1


def _row_of(rows: Sequence[Mapping[str, Any]], model: str) -> Mapping[str, Any] | None:
    """Return the listed model with this name, or made of this folder."""
    for row in rows:
        if model in (row["id"], row.get("root")):
            return row
    name = model.rstrip("/").rpartition("/")[2]
    folders = [row for row in rows if str(row["id"]).rpartition("/")[2] == name]
    return folders[0] if len(folders) == 1 and model.startswith("/") else None


def _context_of(row: Mapping[str, Any]) -> int | None:
    """Return the context in tokens that vLLM or llama.cpp lists; None if the server does not say.

    llama.cpp's `n_ctx` is that of one slot, which is what a request may fill.
    """
    meta = row.get("meta")
    length = row.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return length if isinstance(length, int) and length > 0 else None
