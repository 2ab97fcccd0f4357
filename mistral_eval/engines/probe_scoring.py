"""Find out how log-probabilities of a prompt are returned, and whether they are exact."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from mistral_eval.engines.probe_asking import (
    GREEDY,
    TEXTS,
    Asker,
)
from mistral_eval.engines.server_body import (
    Prompt,
    Scoring,
    Traits,
    choices_body,
    generation_body,
    prompt_of,
    scoring_body,
)
from mistral_eval.engines.server_reading import (
    only_choice,
    read_choices,
    read_values,
    reply_ids,
    reply_logprobs,
)
from mistral_eval.errors import EngineError

TAIL: Final = " and so on."
TOLERANCE: Final = 0.1  # nats, by which one value may differ in bfloat16 between two ways to ask
OFFSETS: Final = (0, 1, -1, 2, -2)
# A reply, the prompt's ids, the place of a token whose log-probability is known, and that value.
_Scored: TypeAlias = tuple[Any, Sequence[int], int, float]


async def find_scoring(asker: Asker) -> None:
    """Find out how log-probabilities of a prompt are returned, and whether they are exact.

    A greedy reply of one token has a log-probability. The same token at the same place of a
    prompt must have the same one, at the end of the prompt and within it.
    """
    told = await asyncio.gather(*(_truth(asker, text) for text in TEXTS))
    truth = [one for one in told if one is not None]
    reasons = []
    if len(truth) < 2:
        reasons.append("it returns no log-probabilities")
    else:
        ways: tuple[Scoring, ...] = ("prompt_logprobs", "echo")
        for scoring in ways:
            reason = await _try_scoring(asker, scoring, truth)
            if not reason:
                await _find_choices(asker)
                return
            reasons.append(reason)
    asker.learn(scoring="none", offset=0)
    asker.found.lacks["log-likelihoods"] = reasons[-1]


async def _truth(asker: Asker, text: str) -> tuple[str, int, float] | None:
    """Return a text, the id of the likeliest next token and its log-probability.

    None if the server does not tell.
    """
    body = generation_body(asker.traits, asker.prompt(text), replace(GREEDY, max_tokens=1), None)
    reply = await asker.attempt({**body, "logprobs": 1})
    if reply is None:
        return None
    choice = only_choice(reply, asker.traits)
    try:
        values, found = reply_logprobs(choice), reply_ids(choice, asker.traits)
    except EngineError:  # no numbers
        return None
    if not values or values[-1] is None:
        return None
    if found is not None:
        token = found[-1] if found else None
    else:
        head = asker.ids(text)
        whole = asker.ids(text + str(choice.get("text", "")))
        token = whole[-1] if whole[:-1] == head else None
    if token is None or token in asker.tokenizer.eos_ids:
        return None
    return text, token, values[-1]


async def _try_scoring(
    asker: Asker, scoring: Scoring, truth: Sequence[tuple[str, int, float]]
) -> str:
    """Learn a way of scoring and return "", or return why it cannot be used."""
    asker.learn(scoring=scoring, offset=0)
    if scoring == "echo" and not asker.traits.takes_ids and asker.traits.surplus is None:
        return "it takes text only and does not count its tokens, so they may be others"
    replies: list[_Scored] = []
    for ids, place, value in _cases(asker, truth):
        prompt = _scored_prompt(asker, ids)
        if prompt is None:
            continue
        reply = await asker.attempt(scoring_body(asker.traits, prompt))
        if reply is None:
            return f"it does not answer a request with {scoring}"
        replies.append((reply, ids, place, value))
    if not replies:
        return "its tokens cannot be matched with those of the tokenizer here"
    for offset in OFFSETS:
        told = replace(asker.traits, offset=offset)
        if all(_agrees(told, *one) for one in replies):
            if _is_all_greedy(told, replies):
                return "it calls every token of a prompt the most likely one"
            asker.learn(offset=offset)
            _note_offset(asker, offset)
            return ""
    return _why_not(asker.traits, [reply for reply, *_ in replies])


def _cases(
    asker: Asker, truth: Sequence[tuple[str, int, float]]
) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """Yield ids, the place of a token whose log-probability is known, and that value."""
    for text, token, value in truth:
        head = asker.ids(text)
        for tail in ((), tuple(asker.tokenizer.encode(TAIL, bos=False))):
            yield (*head, token, *tail), len(head), value


def _note_offset(asker: Asker, offset: int) -> None:
    # an echo of a text without BOS is no mistake
    if offset not in (0, 0 if asker.traits.takes_ids else 1):
        asker.found.notes.append(
            "the server returns the log-probabilities of a prompt at places that are off by "
            f"{abs(offset)}, which is put right here"
        )


def _scored_prompt(asker: Asker, ids: Sequence[int]) -> Prompt | None:
    """Return a prompt of these ids; None if the server takes text and makes others of it."""
    prompt = prompt_of(asker.traits, asker.tokenizer, ids, None)
    if isinstance(prompt, str):
        written = prompt.removeprefix(asker.traits.bos_text)
        if tuple(asker.ids(written)) != tuple(ids):
            return None
    return prompt


async def _find_choices(asker: Asker) -> None:
    """Find out whether the log-probabilities of given next tokens can be asked.

    They must be those of the tokens at the end of a prompt.
    """
    if not asker.traits.takes_ids or not asker.traits.extras:
        return
    head = asker.ids(TEXTS[2])
    tokens = [asker.tokenizer.encode(text, bos=False)[-1] for text in (" A", " B", " 1", " x")]
    reply = await asker.attempt(choices_body(asker.traits, asker.prompt(TEXTS[2]), tokens))
    if reply is None:
        return
    try:
        scores = read_choices(reply, asker.traits, tokens)
    except EngineError:  # an unknown field has no effect
        return
    for token, score in zip(tokens, scores, strict=True):
        ids = (*head, token)
        prompt = prompt_of(asker.traits, asker.tokenizer, ids, None)
        told = await asker.ask(scoring_body(asker.traits, prompt))
        exact = read_values(told, asker.traits, ids)[-1]
        if exact is None or abs(exact[0] - score.logprob) > TOLERANCE:
            return
    asker.learn(choices=True)


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
    is_valued = traits.scoring == "echo" and len(_echoed(traits, reply, "token_logprobs")) > 1
    return is_valued and not any(_echoed(traits, reply, "top_logprobs"))


def _holds_nothing(traits: Traits, reply: Any) -> bool:
    if traits.scoring == "prompt_logprobs":
        return not only_choice(reply, traits).get("prompt_logprobs")
    # one value is that of the generated token
    return len(_echoed(traits, reply, "token_logprobs")) <= 1


def _echoed(traits: Traits, reply: Any, name: str) -> Sequence[Any]:
    """Return a list of an echo; an empty one where there is none."""
    logprobs = only_choice(reply, traits).get("logprobs")
    found = logprobs.get(name) if isinstance(logprobs, dict) else None
    return found if isinstance(found, list) else ()
