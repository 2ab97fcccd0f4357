"""What a server's replies depend on besides the request: its identity in keys and in run.json."""

from collections.abc import Mapping
from typing import Any, Final

from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.probe_asking import Found
from mistral_eval.engines.server_args import LocalModel, ServerArgs

VERSION: Final = "1"  # part of the reply's key: raise it when the engine's numbers change
# Traits that change how a server is asked and not what it replies; a healed prompt has its own key.
_HARMLESS: Final = frozenset({"model", "answers_as", "stops", "choices", "among", "surplus"})


def identity_of(
    args: ServerArgs, found: Found, local: LocalModel, context_len: int
) -> EngineIdentity:
    """Return the identity: the server's URL and model stand for weights that are not known here."""
    url, traits = args.endpoint.url, found.traits
    how = {name: value for name, value in traits.as_json().items() if name not in _HARMLESS}
    told = f" ({found.version})" if found.version else ""
    notes = (
        f"answered by the server at {url}{told}, whose weights and dtype are not known here",
        *local.tokenizer.notes,
        *found.notes,
    )
    info: Mapping[str, Any] = {
        "max_length": context_len,
        "server": {
            "url": url,
            "version": found.version,
            "traits": traits.as_json(),
            **found.info,
            "lacks": found.lacks,
        },
    }
    return EngineIdentity(
        "server",
        VERSION,
        weights=f"{url} {traits.model}",
        tokenizer=local.tokenizer.fingerprint,
        arguments=" ".join(f"{name}={value}" for name, value in how.items()),
        info=info,
        notes=notes,
    )
