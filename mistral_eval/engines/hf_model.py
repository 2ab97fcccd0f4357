"""lm-eval's `hf` model, loaded with checks: it computes what the checkpoint holds, or refuses.

transformers draws missing tensors at random and drops surplus ones with a log line only. lm-eval
ties embeddings again after loading, whatever the file holds.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Final, Self

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.mistral3 import Mistral3LM
from transformers import GenerationConfig
from transformers.utils import logging

from mistral_eval.errors import CheckpointError, EngineError, TokenizerError, UsageError
from mistral_eval.model.load.layout import is_harmless
from mistral_eval.model.load.stored import DTYPES
from mistral_eval.model.load.weights import and_more, check_finite

ANCHOR: Final = "a"
SAME_FILES: Final = "copy or download the checkpoint again"
OTHER_MODEL: Final = "configuration and weights are of different models"


class EncodedText(str):
    """A prompt whose ids are known, and those of a continuation; lm-eval handles it as a text.

    Its text decides nothing but lm-eval's order of equally long prompts.
    """

    __slots__ = ("continuation", "ids")

    ids: tuple[int, ...]
    continuation: tuple[int, ...]

    @classmethod
    def of(cls, text: str, ids: Sequence[int], continuation: Sequence[int] = ()) -> Self:
        """Create a prompt from its text for people, its ids and a continuation's ids."""
        made = cls(text)
        made.ids, made.continuation = tuple(ids), tuple(continuation)
        return made


class AnchoredHFLM(HFLM):
    """lm-eval's `hf` model, which decodes generated ids as the continuation of other text.

    The checkpoint's generation_config.json is ignored except for its special ids: only the protocol
    decides how a reply is sampled. `is_anchored` is false while replies begin texts of their own.

    Args:
        end_ids: each ends a generation; None leaves this to generation_config.json.
        arguments: HFLM's.
    """

    AUTO_MODEL_CLASS: Any = None
    add_bos_token: bool | None
    is_anchored: bool = True

    def __init__(self, end_ids: Sequence[int] | None = None, **arguments: Any) -> None:
        with _quiet():
            super().__init__(**arguments)
            theirs = self.model.generation_config
            self._end_ids = frozenset(end_ids or ())
            self.model.generation_config = GenerationConfig(
                bos_token_id=theirs.bos_token_id,
                eos_token_id=list(end_ids) if end_ids else theirs.eos_token_id,
                pad_token_id=theirs.pad_token_id,
                top_k=0,
            )

    def _create_model(self, pretrained: str, **options: Any) -> None:
        """Create the model as lm-eval does, and check what is loaded, adapter included."""
        for name in ("autogptq", "gptqmodel"):
            if options.get(name):
                raise UsageError(
                    f"--model-args {name} loads weights without reporting what is missing. Leave "
                    "it out: transformers reads such a folder by its quantization_config."
                )
        chosen = self.AUTO_MODEL_CLASS
        loader = _CheckedLoader(chosen)
        self.AUTO_MODEL_CLASS = loader
        try:
            super()._create_model(pretrained, **options)
        finally:
            self.AUTO_MODEL_CLASS = chosen
        check_words(pretrained, self.tokenizer, self.model)
        if options.get("peft"):
            check_adapter(self.model, str(options["peft"]), loader.rows)

    def _create_tokenizer(
        self, *places: Any, add_bos_token: bool | None = None, **options: Any
    ) -> None:
        """Create the tokenizer as lm-eval does; mistral-common's (tekken.json) takes no BOS option.

        `tok_encode` asks every kind for BOS with each text.
        """
        super()._create_tokenizer(*places, **options)
        if add_bos_token is not None and not _is_mistral_common(self.tokenizer):
            super()._create_tokenizer(*places, add_bos_token=add_bos_token, **options)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001 - lm-eval's
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """Encode a text as lm-eval does; a prompt with known ids has these."""
        if isinstance(string, EncodedText):
            return list(string.ids[-(left_truncate_len or 0) :])
        ids: list[int] = super().tok_encode(
            string, add_special_tokens, left_truncate_len, **options
        )
        return ids

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,  # noqa: FBT001, FBT002 - lm-eval's
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode and pad texts as lm-eval does; prompts with known ids have these."""
        known = [list(one.ids) for one in strings if isinstance(one, EncodedText)]
        if not known:
            found: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return found
        cut = [ids[-(left_truncate_len or 0) :] for ids in known]
        width = max(map(len, cut))
        padding = self.tokenizer.pad_token_id or 0
        rows = [[padding] * (width - len(ids)) + ids for ids in cut]  # (prompts, width)
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in cut]
        return torch.tensor(rows), torch.tensor(mask)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode a context and its continuation as lm-eval does, if their ids are not known."""
        if isinstance(context, EncodedText):
            return list(context.ids), list(context.continuation)
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def tok_decode(self, tokens: Iterable[int] | int, *, skip_special_tokens: bool = True) -> str:
        """Decode ids that follow a prompt, up to an end token; decode a single id (EOS) alone."""
        if isinstance(tokens, int):
            return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))
        anchor = []
        if self.is_anchored:
            anchor = self.tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
        ids = tokens.tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
        # an end token may be an ordinary word, which decoding would show
        ids = list(takewhile(lambda token: token not in self._end_ids, ids))
        text = self.tokenizer.decode(anchor + ids, skip_special_tokens=skip_special_tokens)
        return str(text).removeprefix(ANCHOR if anchor else "")

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: FBT001, FBT002 - lm-eval's
    ) -> list[float]:
        """Score whole texts without BOS from the tokenizer, since lm-eval adds a prefix itself."""
        adds_bos, self.add_bos_token = self.add_bos_token, False
        try:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = adds_bos
        return found

    def is_cut(self, context: str, continuation: str | None, new_tokens: int) -> bool:
        """Return whether lm-eval truncates this prompt on the left to fit the context.

        Args:
            context: the text before the continuation or the reply.
            continuation: the text to score; None for a prompt of a reply.
            new_tokens: the number of new tokens that are to fit behind a prompt.

        Raises:
            EngineError: without any prompt the request already exceeds the context.
        """
        if self.backend != "causal":
            return False
        room = self.max_length - new_tokens
        if room < 1:
            raise EngineError(
                f"{new_tokens} new tokens leave no room for a prompt in a context of "
                f"{self.max_length}"
            )
        if continuation is None:
            # no token is shorter than one byte; special tokens are counted generously
            if len(context.encode()) + 8 <= room:
                return False
            return bool(len(self.tok_encode(context)) > room)
        if len((context + continuation).encode()) + 8 <= room:
            return False
        head, tail = self._encode_pair(context, continuation)
        if len(tail) > self.max_length:
            raise EngineError(
                f"a continuation of {len(tail)} tokens does not fit a context of {self.max_length}"
            )
        return bool(len(head) + len(tail) > self.max_length + 1)


class AnchoredMistral3(AnchoredHFLM, Mistral3LM):
    """The same for Mistral3ForConditionalGeneration, which AutoModelForCausalLM does not load."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report of what is missing, which our errors state."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the types of lm-eval's own arguments that are either true or false.

    Any text is true in Python; this matters most for `trust_remote_code`.

    Raises:
        UsageError: a value is neither true nor false.
    """
    parameters = inspect.signature(HFLM.__init__).parameters
    for name, value in arguments.items():
        if name not in parameters:
            continue
        kinds = {part.strip() for part in str(parameters[name].annotation).split("|")}
        if kinds <= {"bool", "None"} and not isinstance(value, bool):
            raise UsageError(f"--model-args {name}={value}: expected true or false.")


class _CheckedLoader:
    """One of transformers' Auto classes; every model that it loads is checked.

    Attributes:
        rows: rows of the embedding of the model that was loaded last.
    """

    def __init__(self, chosen: Any) -> None:
        self._chosen = chosen
        self.rows = 0

    def from_pretrained(self, name: str, **options: Any) -> Any:
        """Load a model and check it (see `check_loaded`)."""
        # a mismatch raises by default, without the tensor's name
        asked = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = self._chosen.from_pretrained(name, **asked)
        check_loaded(name, model, info)
        self.rows = _rows(model)
        return model


def check_loaded(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Compare a loaded model with its files, by transformers' loading info and by its values.

    Raises:
        CheckpointError: a tensor is missing, unexpected, has another shape or holds NaN or
            infinity.
    """
    if missing := sorted(info["missing_keys"]):
        raise _wrong(name, missing, "is missing", SAME_FILES)
    surplus = sorted(key for key in info["unexpected_keys"] if not is_harmless(key))
    if surplus:
        raise _wrong(
            name, surplus, "has no place in the model that the configuration describes", OTHER_MODEL
        )
    if mismatched := sorted(info["mismatched_keys"]):
        _, stored, expected = mismatched[0]
        what = f"should have shape {tuple(expected)} by the configuration and has {tuple(stored)}"
        raise _wrong(name, [key for key, *_ in mismatched], what, OTHER_MODEL)
    for key, tensor in model.named_parameters():
        if tensor.dtype in DTYPES.values() and tensor.numel() and not tensor.is_meta:
            check_finite(name, key, tensor)
    _keep_untied(model)


def _keep_untied(model: Any) -> None:
    """Keep an output matrix that the configuration ties to the embeddings and the file does not.

    transformers uses both matrices then; lm-eval ties them again unless the configuration says no.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        return
    if not torch.equal(head.weight, embeddings.weight):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def check_words(name: str, tokenizer: Any, model: Any) -> None:
    """Check that the embedding has a row for every id that a text can have.

    Special tokens may lack one, since no text of ours has them.

    Raises:
        TokenizerError: the tokenizer has more ordinary ids.
    """
    special = set(tokenizer.all_special_ids)
    if not _is_mistral_common(tokenizer):
        special.update(n for n, token in tokenizer.added_tokens_decoder.items() if token.special)
    ordinary = (number for number in tokenizer.get_vocab().values() if number not in special)
    count = max(ordinary, default=-1) + 1
    if count > _rows(model):
        raise TokenizerError(
            f"{name}: the tokenizer has {count} ids and the model's embedding only {_rows(model)} "
            "rows: tokenizer and weights are of different models."
        )


def check_adapter(model: Any, adapter: str, rows: int) -> None:
    """Compare an adapter's file with the adapter that was created from its configuration.

    Args:
        model: the base model with its adapter.
        adapter: the adapter's folder, or its name on the hub.
        rows: rows of the base model's embedding as stored; lm-eval resizes it to the tokenizer.

    Raises:
        CheckpointError: a tensor is missing or unexpected.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    stored = load_peft_weights(adapter, device="cpu")
    missing = sorted(key for key in expected if key not in stored)
    if missing:
        raise _wrong(adapter, missing, "is missing", SAME_FILES)
    whole = model.state_dict()
    surplus = sorted(key for key in stored if key not in expected and key not in whole)
    if surplus:
        raise _wrong(
            adapter,
            surplus,
            "has no place in the adapter that its configuration describes",
            "adapter and base model do not belong together",
        )
    if _rows(model) > rows and not any("embed_tokens" in key for key in stored):
        raise CheckpointError(
            f"{adapter}: the tokenizer has {_rows(model)} ids, the base model's embedding {rows} "
            "rows, and the adapter none: tokenizer and base model do not belong together."
        )


def _is_mistral_common(tokenizer: Any) -> bool:
    """Return whether transformers reads the tokenizer with mistral-common.

    By name, since the class cannot be imported where that library is missing.
    """
    return type(tokenizer).__name__ == "MistralCommonBackend"


def _rows(model: Any) -> int:
    """Return the number of rows of a model's embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def _wrong(name: str, keys: Sequence[str], what: str, hint: str) -> CheckpointError:
    """Return the error that names the first tensor, and how many others there are."""
    return CheckpointError(f"{name}: tensor {keys[0]} {what}{and_more(keys)}: {hint}.")
