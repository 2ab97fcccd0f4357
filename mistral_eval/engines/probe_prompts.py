"""Find out how prompts are sent, how BOS comes before them, and whose tokenizer the server has."""

from collections.abc import Sequence
from typing import Any

from mistral_eval.engines.probe_asking import (
    GREEDY,
    TEXTS,
    Asker,
)
from mistral_eval.engines.server_body import generation_body, prompt_of
from mistral_eval.engines.server_reading import count_of, only_choice
from mistral_eval.errors import EngineError


async def find_prompt_form(asker: Asker) -> None:
    """Find out whether prompts may be token ids, and how BOS comes before them."""
    asker.learn(bos=asker.bos)
    ids = asker.ids(TEXTS[0])
    asker.learn(takes_ids=True)
    reply = await asker.attempt(generation_body(asker.traits, list(ids), GREEDY, None))
    used = count_of(reply, "prompt_tokens")
    if reply is not None and used is not None and used - len(ids) in (0, 1):
        _check_name(asker, reply)
        if used == len(ids) + 1:
            await _leave_bos_to_server(asker, ids)
        return
    asker.learn(takes_ids=False)
    asker.found.notes.append(
        "the server takes prompts as text only and makes its own token ids of them"
    )
    await _find_text_bos(asker)


async def _leave_bos_to_server(asker: Asker, ids: Sequence[int]) -> None:
    """Leave BOS out of token ids for a server that adds one to them."""
    if asker.bos == "none":
        raise EngineError(
            "The server puts BOS before token ids, and this model's tokenizer begins no text "
            "with BOS. Start the server so that it leaves token ids as they are."
        )
    asker.learn(bos="added")
    prompt = prompt_of(asker.traits, asker.tokenizer, ids, None)
    reply = await asker.ask(generation_body(asker.traits, prompt, GREEDY, None))
    if count_of(reply, "prompt_tokens") != len(ids):
        raise EngineError(
            "The server adds tokens to prompts of token ids, and not only BOS. Start the "
            "server so that it leaves token ids as they are."
        )
    asker.found.notes.append(
        "the server puts BOS before token ids too, so prompts are sent without theirs"
    )


async def _find_text_bos(asker: Asker) -> None:
    """Find out whether the server puts BOS before a text, or reads it where it is written."""
    bare = len(asker.tokenizer.encode(TEXTS[0], bos=False))
    reply = await asker.ask(asker.plain_body(TEXTS[0]))
    _check_name(asker, reply)
    used = count_of(reply, "prompt_tokens")
    if used is None:
        asker.learn(bos="added" if asker.bos == "sent" else "none")
        asker.found.notes.append(
            "the server does not count tokens, so it is not known whether it puts BOS before "
            "a prompt"
        )
        return
    added = used - bare
    if added == 1 and asker.bos == "sent":
        asker.learn(bos="added")
    elif added == 1:
        asker.found.notes.append(
            "the server puts BOS before each prompt, which this model's tokenizer does not: "
            "scores may differ from those of other engines"
        )
    elif added == 0 and asker.bos == "sent":
        await _write_bos(asker, bare)


async def _write_bos(asker: Asker, bare: int) -> None:
    """Write BOS as text for a server that adds none, if it reads it as BOS."""
    reply = await asker.ask(asker.plain_body(asker.bos_text + TEXTS[0]))
    if count_of(reply, "prompt_tokens") == bare + 1:
        asker.learn(bos_text=asker.bos_text)
        asker.found.notes.append(f"BOS is sent as the text {asker.bos_text}")
        return
    asker.learn(bos="none")
    asker.found.notes.append(
        "the server puts no BOS before a prompt, as this model's tokenizer does, and takes "
        "none: scores may differ from those of other engines"
    )


def _check_name(asker: Asker, reply: Any) -> None:
    """Check that the model that was asked has answered; some servers write it otherwise."""
    name = reply.get("model") if isinstance(reply, dict) else None
    root = asker.found.info.get("listed", {}).get("root")
    plain = str(name).partition("@")[0]
    if (
        name
        and name != asker.traits.model
        and (asker.traits.model in (plain, plain.rpartition("/")[2]) or name == root)
    ):
        asker.learn(answers_as=str(name))
    only_choice(reply, asker.traits)


async def check_tokenizer(asker: Asker) -> None:
    """Compare the numbers of tokens that the server makes of texts with our tokenizer's."""
    extra = set()
    for text in TEXTS:
        reply = await asker.ask(asker.plain_body(text))
        used = count_of(reply, "prompt_tokens")
        if used is None:
            return
        extra.add(used - len(asker.tokenizer.encode(text, bos=False)))
    if len(extra) > 1 or extra - {0, 1}:
        raise EngineError(
            f"The server at {asker.client.endpoint.url} makes other tokens of a text than the "
            f"tokenizer here ({asker.tokenizer.kind}) does. Give the served model's own with "
            "`--model-args tokenizer=FOLDER`."
        )
