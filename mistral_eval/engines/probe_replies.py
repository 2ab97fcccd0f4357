"""Find out what replies hold, and whether stops, temperature and seeds have an effect."""

from dataclasses import replace
from typing import Any, Final

from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.engines.probe_asking import (
    GREEDY,
    TEXTS,
    Asker,
)
from mistral_eval.engines.server_body import WANT_IDS, Ids, first_body, generation_body
from mistral_eval.engines.server_reading import count_of, only_choice, read_generation, reply_ids
from mistral_eval.errors import EngineError

PATTERN: Final = "a b c d e a b c d e a b c d e a b c d"  # after which " e" comes
STOPS: Final = tuple(f"\n#{n}#" for n in range(16))  # strings that no reply has
DRAWS: Final = 8
HOT: Final = GenerationSettings(max_tokens=12, temperature=1.5)


async def find_extras(asker: Asker) -> None:
    """Find out whether fields beyond OpenAI's are accepted, and whether replies have ids."""
    plain = await asker.generate(TEXTS[1])
    used = count_of(plain, "prompt_tokens")
    if used is not None:
        asker.learn(surplus=used - len(asker.ids(TEXTS[1])))
    for no_top_k in (0, -1):
        asker.learn(extras=True, no_top_k=no_top_k)
        hot = generation_body(asker.traits, asker.prompt(TEXTS[1]), HOT, 1)
        body = generation_body(asker.traits, asker.prompt(TEXTS[1]), GREEDY, None)
        reply = await asker.attempt({**body, **WANT_IDS})
        if reply is not None and await asker.attempt(hot) is not None:
            break
    else:
        asker.learn(extras=False, no_top_k=0)
        asker.found.notes.append(
            "the server refuses fields beyond OpenAI's, so its own top-k, min-p and repetition "
            "penalty apply"
        )
        return
    if not _holds_ids(asker, reply, "token_ids"):
        named = {**body, "logprobs": 1, "return_tokens_as_token_ids": True}
        other = await asker.attempt(named)
        places: tuple[Ids, ...] = ("names", "content") if other is not None else ()
        for place in places:
            if _holds_ids(asker, other, place):
                break
    if asker.text(await asker.generate(TEXTS[1]), TEXTS[1]) != asker.text(
        await asker.generate(TEXTS[1]), TEXTS[1]
    ):
        asker.found.notes.append("the server's greedy replies differ from call to call")


def _holds_ids(asker: Asker, reply: Any, where: Ids) -> bool:
    """Learn where a reply has its ids, if our tokenizer makes its text of them."""
    told = replace(asker.traits, ids=where)
    choice = only_choice(reply, told)
    text = str(choice.get("text"))
    try:
        ids = reply_ids(choice, told)
    except EngineError:
        return False
    if not ids:
        return False
    own = read_generation(reply, told, GREEDY, asker.tokenizer, asker.ids(TEXTS[1])).text
    if own.strip() != text.strip() and "\N{REPLACEMENT CHARACTER}" not in own + text:
        raise EngineError(
            f"The server's token ids are {own!r} in the tokenizer here ({asker.tokenizer.kind})"
            f", and the server says {text!r}. Give the served model's own tokenizer with "
            "`--model-args tokenizer=FOLDER`."
        )
    asker.learn(ids=where)
    return True


async def find_stops(asker: Asker) -> None:
    """Find out how many stop strings are taken, and whether they end a reply."""
    for number in (16, 8, 4, 2, 1, 0):
        asker.learn(stops=number)
        settings = replace(GREEDY, max_tokens=2, until=STOPS[:number])
        body = generation_body(asker.traits, asker.prompt(TEXTS[0]), settings, None)
        if await asker.attempt(body) is not None:
            break
    long = replace(GREEDY, max_tokens=16)
    whole = only_choice(await asker.generate(TEXTS[2], long), asker.traits).get("text") or ""
    middle = whole[len(whole) // 3 :][:3]
    if not middle.strip() or not asker.traits.stops:
        return
    until = replace(long, until=(middle,))
    cut = only_choice(await asker.generate(TEXTS[2], until), asker.traits).get("text") or ""
    expected = until.cut(whole)
    if cut.strip() == expected.strip():
        how = "honoured"
    elif len(cut) < len(whole) and cut.rstrip().endswith(middle.rstrip()):
        how = "kept"
    else:
        how = "ignored"
        asker.found.notes.append(
            "the server ignores stop strings: replies are cut here, and take longer"
        )
    asker.found.info["stop_strings"] = how


async def find_sampling(asker: Asker) -> None:
    """Find out whether temperature and seed have an effect."""
    seeds = (1, 1, *range(2, DRAWS))
    replies = [await asker.generate(TEXTS[0], HOT, seed) for seed in seeds]
    draws = [asker.text(reply, TEXTS[0], HOT) for reply in replies]
    counts = {count_of(one, "prompt_tokens") for one in replies}
    if counts != {(asker.traits.surplus or 0) + len(asker.ids(TEXTS[0]))}:
        # e.g. it counts only what it has not cached
        asker.learn(surplus=None)
    varies = len(set(draws)) > 1
    repeats = draws[0] == draws[1]
    asker.found.info |= {"temperature_honoured": varies, "seed_honoured": varies and repeats}
    if not varies:
        asker.found.lacks["independent samples"] = (
            f"{DRAWS} samples at temperature {HOT.temperature:g} were {DRAWS} equal replies"
        )
    elif not repeats:
        asker.found.notes.append(
            "the server ignores seeds: a new run draws other samples (the samples of this run "
            "are independent, and resuming keeps them)"
        )


async def find_among(asker: Asker) -> None:
    """Find out whether the next token can be drawn among given ones.

    Two halves of some ids cannot both hold the token that the server would draw without them.
    """
    if asker.traits.ids != "token_ids" or not asker.traits.takes_ids:
        return
    ids = sorted(set(asker.ids(TEXTS[1])[1:]))
    prompt = asker.prompt(TEXTS[0])
    for among in (ids[::2], ids[1::2]):
        reply = await asker.attempt(first_body(asker.traits, prompt, GREEDY, None, among))
        if reply is None or reply_ids(only_choice(reply, asker.traits), asker.traits) not in {
            (one,) for one in among
        }:
            return
    asker.learn(among=True)


async def find_first_space(asker: Asker) -> None:
    """Find out whether a reply that is text keeps its first space."""
    if asker.traits.ids != "none":
        return
    expected = PATTERN[PATTERN.index("e")]
    texts = [asker.text(await asker.generate(text), text) for text in (*TEXTS, PATTERN)]
    keeps = any(text[:1].isspace() for text in texts)
    asker.found.info["first_space"] = "kept" if keeps else "not seen"
    if not keeps:
        shown = "lost" if texts[-1].startswith(expected) else "not seen"
        asker.found.info["first_space"] = shown
        asker.found.lacks["exact text"] = (
            "its replies are text without their first space, so the indentation of a program "
            "is lost"
        )
