"""lm-eval's `hf` model as an engine, for checkpoints that the native engine does not support.

It samples with torch's global generator, so sampled replies depend on batching. BOS is added and
generation ends as the native engine would have it (see `model.tokenizers`). One fix for Mistral's
tokenizers: generated ids are decoded after an anchor. lm-eval decodes them alone and loses the
leading space of the first token (pass@1 of 1.2 % instead of 27 %).
"""

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from lm_eval.api.instance import Instance
from transformers.utils import is_protobuf_available

from mistral_eval.engines.chat_ids import ChatIds, begins_reply
from mistral_eval.engines.devices import choose_device
from mistral_eval.engines.faults import library_faults
from mistral_eval.engines.hf_model import (
    AnchoredHFLM,
    AnchoredMistral3,
    EncodedText,
    check_arguments,
)
from mistral_eval.engines.interface import (
    Capabilities,
    Encoded,
    Engine,
    EngineIdentity,
    Gold,
    Kind,
    Reply,
    Request,
    Say,
    Stop,
    TextEncoder,
    named,
    never,
)
from mistral_eval.engines.keys import files_digest
from mistral_eval.engines.lm_eval_model import instance_of
from mistral_eval.engines.native_encoder import NOT_HEALED
from mistral_eval.errors import (
    CheckpointError,
    EngineError,
    MistralEvalError,
    TokenizerError,
    UnsupportedError,
    UsageError,
)
from mistral_eval.lfs import pointer_sentence
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.adapter import check_adapter_files, resolve_parts
from mistral_eval.model.load.config_hf import FAMILIES, from_hf_config
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.folder import TRUST, check_folder, folder_notes
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.load.hub import resolve_model
from mistral_eval.model.load.quantised import check_hf_dtype
from mistral_eval.model.load.stored import open_hf_tensors
from mistral_eval.model.tiny import tiny_model, tiny_tokenizer_file
from mistral_eval.model.tokenizers.agreement import PROBES
from mistral_eval.model.tokenizers.borders import Borders
from mistral_eval.model.tokenizers.incremental import PrefixEncoder
from mistral_eval.model.tokenizers.special import TOKENIZER, TokenizerArgs, split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, Tokenizer, load_tokenizer
from mistral_eval.native.requests import (
    GenerateRequest,
    Sampling,
    ScoreRequest,
    truncate_left,
    truncate_prompt,
)
from mistral_eval.settings import AUTO, TINY, RunSettings, parse_value

_PEFT: Final = "peft"  # lm-eval's argument for an adapter
# Requests per call, all of one benchmark: at most these are lost by a kill or delay a stop.
CALL: Final = 256


class HFEngine(TextEncoder, Engine):
    """An engine that wraps an lm-eval model.

    Args:
        lm: the model.
        seed, identity: see `TextEncoder`.
        tokenizer: the native engine's tokenizer of the model; None if it reads none.
        chat: encodes conversations; None if the native engine reads no tokenizer.
    """

    can = Capabilities(chat=True)

    def __init__(
        self,
        lm: AnchoredHFLM,
        seed: int,
        identity: EngineIdentity,
        tokenizer: Tokenizer | None = None,
        chat: ChatIds | None = None,
    ) -> None:
        super().__init__(seed, identity)
        self.lm = lm
        self._chat = chat
        self._borders = Borders(tokenizer, PrefixEncoder(tokenizer)) if tokenizer else None

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "HFEngine":
        """Load the run's checkpoint (see `open_hf`)."""
        del gold
        say(f"Loading {settings.model} into lm-eval's hf model.")
        return open_hf(
            settings.model,
            adapter=settings.adapter,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            seed=settings.seed,
            model_args=settings.model_args,
            chat_template=settings.chat_template,
        )

    def encode(self, request: Request) -> Encoded:
        """Encode a request, and tell whether lm-eval truncates it on the left.

        Raises:
            EngineError: the request does not fit the context even without its prompt.
        """
        encoded = super().encode(request)
        if request.kind == "rolling":
            return encoded
        if isinstance(request.context, Messages):
            return self._encode_chat(encoded, request.context)
        is_score = request.kind == "score"
        continuation = request.continuation if is_score else None
        new_tokens = 0 if is_score else request.generation.max_tokens
        with named(request):
            is_cut = self.lm.is_cut(request.text, continuation, new_tokens)
        is_joined = not is_score and self._borders and self._borders.healing(request.text)
        return replace(encoded, truncated=is_cut, remark=NOT_HEALED if is_joined else "")

    def _encode_chat(self, encoded: Encoded, messages: Messages) -> Encoded:
        """Add a conversation's ids, which lm-eval's model is given in place of a text.

        Raises:
            EngineError: there is no tokenizer of ours for the model, or the format refuses the
                conversation.
        """
        request, chat = encoded.request, self._chat
        if chat is None:
            raise EngineError(
                "The hf engine encodes conversations with the native engine's tokenizer, and that "
                "cannot read this model's (see the note). Leave out --apply-chat-template."
            )
        if request.kind == "score":
            pair = ScoreRequest(*chat.pair(request, messages))
            text = EncodedText.of(str(messages), pair.context, pair.continuation)
            with named(request):
                _, is_cut = truncate_left(pair, self.lm.max_length)
        else:
            prompt = chat.prompt(request, messages)
            text = EncodedText.of(str(messages), prompt)
            asked = GenerateRequest(prompt, request.generation.max_tokens, Sampling())
            with named(request):
                _, is_cut = truncate_prompt(asked, self.lm.max_length)
        return replace(encoded, work=text, truncated=is_cut, remark=chat.remark)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Pass requests to lm-eval's model, `CALL` of a benchmark at a time, the longest first.

        Raises:
            EngineError: lm-eval's model failed; names the benchmark and the cause.
        """
        asked: dict[tuple[str, bool], list[int]] = {}
        for index, item in enumerate(encoded):
            if index not in known:
                group = (item.request.benchmark, begins_reply(item.request))
                asked.setdefault(group, []).append(index)
        for (benchmark, begins), indices in asked.items():
            self.lm.is_anchored = not begins
            order = sorted(indices, key=lambda i: -len(encoded[i].request.context))
            for start in range(0, len(order), CALL):
                if stop():
                    return
                part = order[start : start + CALL]
                instances = [instance_of(_as_text(encoded[i])) for i in part]
                with library_faults(partial(_failed, benchmark)):
                    replies = self._call(encoded[0].request.kind, instances)
                yield from zip(part, replies, strict=True)

    def _call(self, kind: Kind, instances: list[Instance]) -> list[Reply]:
        if kind == "score":
            scored = self.lm.loglikelihood(instances, disable_tqdm=True)
            return [Reply(float(logprob), bool(greedy)) for logprob, greedy in scored]
        if kind == "rolling":
            rolling = self.lm.loglikelihood_rolling(instances, disable_tqdm=True)
            return [Reply(float(one)) for one in rolling]
        texts = self.lm.generate_until(instances, disable_tqdm=True)
        return [Reply(text=text, finish="stop") for text in texts]


def _as_text(encoded: Encoded) -> Request:
    """Return the request with a conversation as the text whose ids are known."""
    chat = isinstance(encoded.work, EncodedText)
    return replace(encoded.request, context=encoded.work) if chat else encoded.request


def _failed(benchmark: str, cause: str) -> EngineError:
    return EngineError(
        f"{benchmark}: lm-eval's hf model failed ({cause}). Earlier replies are kept: run the same "
        "command again to resume, with --debug for the traceback, or leave the benchmark out."
    )


def open_hf(  # noqa: PLR0913 - one argument per setting of a run
    pretrained: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    chat_template: str = AUTO,
) -> HFEngine:
    """Load a checkpoint into lm-eval's `hf` model.

    Args:
        pretrained: a hub id, a folder that transformers can read, or `tiny`; a whole model, or an
            adapter of peft.
        adapter: an adapter of peft for `pretrained`: a hub id or a folder.
        revision: branch, tag or commit of a hub id.
        dtype: a dtype's name in transformers; `auto` is the stored one.
        device: `auto` (cuda if available), or a device's name in torch.
        seed: random seed for sampling, for torch's global generator.
        model_args: passed to lm-eval's model, e.g. batch_size, peft, trust_remote_code; text is
            read by `parse_value`.
        chat_template: how conversations are encoded: auto, mistral, folder or a template's file.

    Raises:
        CheckpointError: the checkpoint is incomplete, does not fit its configuration, or names a
            program of its own that `model_args` do not allow.
        EngineError: transformers cannot load the folder.
        HubError: the checkpoint could not be downloaded.
        UsageError: lm-eval's model does not take these `model_args`, or they name an adapter
            beside another one.
    """
    arguments: dict[str, Any] = {"batch_size": 8}
    for name, given in (model_args or {}).items():
        arguments[name] = parse_value(given) if isinstance(given, str) else given
    check_arguments(arguments)
    where = choose_device(device)
    torch.manual_seed(seed)
    if pretrained == TINY:
        with tempfile.TemporaryDirectory(prefix="mistral-eval-tiny-") as folder:
            file = tiny_tokenizer_file()
            save_hf(tiny_model(dtype, torch.device("cpu")), Path(folder), tokenizer_file=file)
            # the folder is gone before the first conversation
            return _load(Path(folder), dtype, where, seed, arguments, chat_template, file)
    trusted = arguments.get(TRUST) is True
    resolve = partial(resolve_model, reader="transformers", programs=trusted)
    parts = resolve_parts(pretrained, adapter, revision=revision, resolve=resolve)
    if find_gguf(parts.base) is not None:
        raise EngineError(
            f"The hf engine does not read GGUF files, and {parts.base} is one or holds one: "
            "transformers ignores the sliding window of their metadata. Use --engine native."
        )
    check_folder(parts.base, trusted=trusted)
    if parts.adapter is not None:
        check_folder(parts.adapter, trusted=trusted)
        check_adapter_files(parts.adapter)
        if _PEFT in arguments:
            raise UsageError(
                f"--model-args sets {_PEFT}, and the adapter is {parts.adapter}. Leave one out."
            )
        # in this order, so that --model-args still chooses another tokenizer
        own = {_PEFT: str(parts.adapter), TOKENIZER: str(parts.tokenizer)}
        arguments = {**own, **arguments}
    if (parts.base / "config.json").is_file():
        check_hf_dtype(read_json(parts.base / "config.json"), dtype, where)
    return _load(parts.base, dtype, where, seed, arguments, chat_template)


def _load(
    folder: Path,
    dtype: str,
    device: torch.device,
    seed: int,
    arguments: Mapping[str, Any],
    chat_template: str,
    chat_place: Path | None = None,
) -> HFEngine:
    remote = arguments.get(TOKENIZER)  # lm-eval also takes a name on the hub
    if remote is not None and Path(str(remote)).expanduser().exists():
        remote = None
    local = {k: v for k, v in arguments.items() if remote is None or k != TOKENIZER}
    args, rest = split_tokenizer_args(local)
    tokenizer, notes = (None, ()) if remote else _own_tokenizer(folder, args)
    if remote:
        rest[TOKENIZER] = remote
    elif args.file is not None:
        rest[TOKENIZER] = str(args.file if args.file.is_dir() else args.file.parent)
    config = _config(folder)
    is_mistral3 = "Mistral3ForConditionalGeneration" in (config.get("architectures") or ())
    model_class = AnchoredMistral3 if is_mistral3 else AnchoredHFLM

    def failed(cause: str) -> MistralEvalError:
        if "unexpected keyword argument" in cause:
            return UsageError(f"lm-eval's hf model does not take these --model-args: {cause}.")
        if _lacks_protobuf(args.file or folder):
            return EngineError(
                f"transformers needs the package protobuf to read {args.file or folder}, whose "
                "tokenizer is a tokenizer.model without a tokenizer.json: `pip install protobuf`."
            )
        for file in sorted(folder.iterdir()):
            if sentence := pointer_sentence(file):
                return EngineError(sentence)
        return EngineError(
            f"transformers cannot load {folder} with {dict(arguments)} ({cause}). The hf engine "
            "needs a Hugging Face folder with config.json, weights that fit it, and a tokenizer."
        )

    with library_faults(failed):
        lm = model_class(
            pretrained=str(folder),
            dtype=dtype,
            device=str(device),
            add_bos_token=tokenizer.adds_bos if tokenizer else args.adds_bos,
            end_ids=tokenizer.eos_ids if tokenizer else None,
            **rest,
        )
    ends = [f"ends {list(tokenizer.eos_ids)}, bos {tokenizer.adds_bos}"] if tokenizer else []
    identity = EngineIdentity(
        "hf",
        weights=files_digest(folder, arguments.values()),
        dtype=dtype,
        device=device.type,
        arguments=" ".join(
            [str(sorted(arguments.items())), *ends, *_libraries(), *_template(chat_template)]
        ),
        info={**lm.get_model_info(), "max_length": lm.max_length},
        notes=(
            *notes,
            *(_other_ids(tokenizer, lm) if tokenizer else ()),
            *_refusal(config),
            *folder_notes(folder),
        ),
    )
    place = chat_place or folder
    chat = ChatIds(tokenizer, chat_template, place, args.file or place) if tokenizer else None
    return HFEngine(lm, seed, identity, tokenizer, chat)


def _config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json; check the tensors, unless they are quantised.

    transformers would read quantised integers as plain numbers.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not config.get("quantization_config"):
        open_hf_tensors(folder)
    return config


def _template(asked: str) -> list[str]:
    """Return what an engine's arguments say of `--chat-template`: by its content if it is a file.

    The checkpoint's own template is among the files of its digest.
    """
    file = Path(asked).expanduser()
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return [] if asked == AUTO else [f"chat template {digest or asked}"]


def _other_ids(tokenizer: Tokenizer, lm: AnchoredHFLM) -> tuple[str, ...]:
    """Return a note if transformers' tokenizer gives a text other ids than the native engine's."""
    for text in PROBES:
        if tokenizer.encode(text, bos=False) != lm.tok_encode(text, add_special_tokens=False):
            note = (
                f"transformers encodes the text {text[:24]!r}... to other ids than --engine native "
                "does from the same files"
            )
            return (note,)
    return ()


def _refusal(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note if the native engine finds a configuration of its families faulty.

    transformers takes one of two contradicting fields, or a default for a missing one, and says
    nothing.
    """
    if config.get("model_type") not in FAMILIES:
        return ()
    try:
        from_hf_config(config, {})
    except UnsupportedError:  # faultless, and the reason for this engine
        return ()
    except CheckpointError as error:
        return (f"--engine native refuses this model, and transformers chose by itself: {error}",)
    return ()


def _lacks_protobuf(place: Path) -> bool:
    """Return whether a tokenizer can only be converted with protobuf, which is not installed."""
    names = ("tokenizer.json", "tekken.json")
    folder = place if place.is_dir() else place.parent
    return (
        (folder / "tokenizer.model").is_file()
        and not any((folder / name).is_file() for name in names)
        and not is_protobuf_available()
    )


def _own_tokenizer(folder: Path, args: TokenizerArgs) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Return the native engine's tokenizer, which knows BOS and end tokens, and its notes.

    None if the native engine refuses the folder's tokenizer: transformers' decides then.
    """
    try:
        tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB, args=args)
    except TokenizerError as error:
        note = f"transformers alone decides about BOS and end tokens; --engine native says: {error}"
        return None, (note,)
    return tokenizer, tokenizer.notes


def _libraries() -> list[str]:
    return [f"{name} {version(name)}" for name in ("lm_eval", "torch", "transformers")]
