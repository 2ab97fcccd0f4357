"""Find out what a completions server does, before the first question is asked.

Servers accept fields without effect, add BOS, shift log-probabilities by a position, and say
nothing. So no field is believed: a few short texts are asked in ways whose answers can be checked
against each other. What a server does wrong is worked around with a note, or what it cannot do is
named (see `Found.lacks`).
"""

from mistral_eval.engines.http_client import Client
from mistral_eval.engines.probe_asking import Asker, Found
from mistral_eval.engines.probe_model import identify
from mistral_eval.engines.probe_prompts import check_tokenizer, find_prompt_form
from mistral_eval.engines.probe_replies import (
    find_among,
    find_extras,
    find_first_space,
    find_sampling,
    find_stops,
)
from mistral_eval.engines.probe_scoring import find_scoring
from mistral_eval.model.tokenizers.tokenizer import Tokenizer


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
    asker = Asker(client, tokenizer, bos_text)
    await identify(asker, model)
    await find_prompt_form(asker)
    await check_tokenizer(asker)
    await find_extras(asker)
    await find_stops(asker)
    await find_sampling(asker)
    await find_among(asker)
    await find_first_space(asker)
    await find_scoring(asker)
    return asker.found
