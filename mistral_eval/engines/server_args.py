"""What `--model-args` says about a server, and where the tokenizer of its model is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mistral_eval.engines.chat_ids import ChatIds
from mistral_eval.engines.endpoint import KEYS, Endpoint, base_url, key_from_environment
from mistral_eval.errors import CheckpointError, HubError, UsageError, nearest
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.load.outline import read_config, small_parts
from mistral_eval.model.tiny import TINY_CONFIG, tiny_tokenizer_file
from mistral_eval.model.tokenizers.special import (
    TOKENIZER,
    TokenizerArgs,
    read_special_tokens,
    split_tokenizer_args,
)
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, Tokenizer, load_tokenizer
from mistral_eval.settings import TINY, RunSettings, parse_value

BOS_TEXT: Final = "<s>"  # SentencePiece's, where no file names another
MAX_LENGTH: Final = "max_length"


@dataclass(frozen=True, slots=True)
class ServerArgs:
    """How a server is asked.

    Attributes:
        endpoint: the server.
        max_length: the context in tokens; None: what the server or the model's files say.
        tokenizer: what `--model-args` says about the tokenizer.
    """

    endpoint: Endpoint
    max_length: int | None
    tokenizer: TokenizerArgs

    @classmethod
    def of(cls, settings: RunSettings) -> "ServerArgs":
        """Read a run's settings, and the API key from the environment.

        Raises:
            UsageError: an argument is unknown or no number, or the URL is none.
        """
        tokenizer, rest = split_tokenizer_args(settings.model_args)
        found = {name: default for name, (default, *_) in _NUMBERS.items()}
        for name, text in rest.items():
            if name.rpartition("_")[2] in _SECRETS:
                raise UsageError(
                    f"--model-args sets {name!r}, and what it sets is kept in run.json. Put the "
                    f"API key into the environment variable {KEYS[0]}."
                )
            if name not in _NUMBERS:
                known = (TOKENIZER, "add_bos_token", *_NUMBERS)
                raise UsageError(
                    f"--model-args sets {name!r}, which --engine server does not take. "
                    f"{nearest(name, known)}"
                )
            found[name] = _number(name, text)
        max_length = int(found.pop(MAX_LENGTH)) or None
        endpoint = Endpoint(
            base_url(settings.base_url or ""),
            in_flight=int(found["num_concurrent"]),
            retries=int(found["max_retries"]),
            timeout=found["timeout"],
            key=key_from_environment(),
        )
        return cls(endpoint, max_length, tokenizer)


_SECRETS: Final = frozenset({"key", "token", "secret", "password"})  # how names of such ones end
# Arguments with lm-eval's names, with their default, least and greatest value.
_NUMBERS: Final[Mapping[str, tuple[float, float, float]]] = {
    "num_concurrent": (32, 1, 10_000),
    "max_retries": (5, 0, 1_000_000),
    "timeout": (600.0, 0.001, 1e6),
    MAX_LENGTH: (0, 1, 1 << 40),
}


def _number(name: str, text: str) -> float:
    """Return the number that `--model-args` gives for a name."""
    value, (_, least, most) = parse_value(text), _NUMBERS[name]
    kinds = (int, float) if name == "timeout" else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "number of seconds" if name == "timeout" else "whole number"
        raise UsageError(
            f"--model-args {name} should be a {kind} from {least:.10g} to {most:.14g} and is "
            f"{text!r}."
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What of a served model is known without the server.

    Attributes:
        tokenizer: its tokenizer.
        context_len: its context in tokens by its configuration; None if that is not at hand.
        bos_text: BOS as text.
        chat: encodes conversations.
    """

    tokenizer: Tokenizer
    context_len: int | None
    bos_text: str
    chat: ChatIds


def read_local(
    settings: RunSettings, args: TokenizerArgs, say: Callable[[str], None] | None = None
) -> LocalModel:
    """Read the tokenizer that encodes for a server: `--model-args tokenizer`, or the model's own.

    Raises:
        TokenizerError, HubError: it cannot be read.
        UsageError: `--model` names neither a folder nor a model on the hub, and no tokenizer is
            given.
    """
    if settings.model == TINY and args.file is None:
        base = tiny_tokenizer_file()
        tokenizer = load_tokenizer(base, expected_vocab=ANY_VOCAB, args=args)
        chat = ChatIds(tokenizer, settings.chat_template, base, base)
        return LocalModel(tokenizer, TINY_CONFIG.context_len, BOS_TEXT, chat)
    folder = args.file or _folder(settings, say)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB, args=args)
    place = folder if folder.is_dir() else folder.parent
    bos_text = read_special_tokens(place).bos or BOS_TEXT
    model = Path(settings.model) if Path(settings.model).exists() else folder
    chat = ChatIds(tokenizer, settings.chat_template, model, folder)
    return LocalModel(tokenizer, _context_len(folder), bos_text, chat)


def _folder(settings: RunSettings, say: Callable[[str], None] | None) -> Path:
    """Return the folder or file of the model; of a hub name only the small files are fetched."""
    give = (
        f"--engine server encodes prompts with the model's tokenizer: give it with `--model-args "
        f"{TOKENIZER}=FOLDER`."
    )
    if not Path(settings.model).exists() and settings.model.count("/") != 1:
        raise UsageError(f"There is no folder {settings.model} here. {give}")
    try:
        return small_parts(settings.model, revision=settings.revision, say=say)
    except (CheckpointError, HubError) as error:
        raise type(error)(f"{error} {give}") from error


def _context_len(folder: Path) -> int | None:
    """Return the context of a model by its configuration; None if there is none that we read."""
    if find_gguf(folder) is None and not folder.is_dir():
        return None
    try:
        return read_config(folder, {}).config.context_len
    except CheckpointError:  # a tokenizer's folder, or a model that only the server can run
        return None
