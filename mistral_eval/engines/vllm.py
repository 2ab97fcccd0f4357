"""vLLM as an engine, in token ids: our encoder and our text, vLLM's forward pass and draws.

The checkpoint is checked as `--engine native` checks it before vLLM reads it. Requests are encoded
by the same encoder, so both engines are asked the same ids; replies are decoded with their prompt
and cut at stop strings by the same code.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import torch

from mistral_eval.engines import vllm_port
from mistral_eval.engines.chat_ids import ChatIds
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
from mistral_eval.engines.keys import files_digest
from mistral_eval.engines.native import NativeEngine
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.engines.native_twin import NativeTwin, is_comparable
from mistral_eval.engines.vllm_args import deciding, engine_arguments, is_trusted
from mistral_eval.engines.vllm_calls import GenerateCall, Port, run_calls, score_calls
from mistral_eval.errors import EngineError, UnsupportedError, UsageError
from mistral_eval.model.load.adapter import Resolve, resolve_parts
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.config_hf import named_dtype
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.folder import check_folder, folder_notes
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.load.hub import resolve_model
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.outline import folder_dtype, read_config
from mistral_eval.model.load.stored import stored_dtype
from mistral_eval.model.load.weights import choose_dtype
from mistral_eval.model.tokenizers.special import split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, Tokenizer, load_tokenizer
from mistral_eval.native.requests import ScoreRequest, check_score_requests
from mistral_eval.settings import TINY, RunSettings

VERSION: Final = "1"  # of our part; raise it when the engine's numbers change
UNKNOWN_CONTEXT: Final = 4096  # where config.json does not tell
UNWANTED: Final = "this engine takes no adapter: merge it into the model with peft, or use native"


class VllmEngine(NativeEncoder, Engine):
    """An engine that asks vLLM.

    Args:
        port: the running vLLM.
        tokenizer, context_len, seed, identity, chat: see `NativeEncoder`.
        settings: the run's settings, to open the native engine for `check`; None if there are none.
    """

    can = Capabilities(chat=True, plain_twin=True)
    twin = "with the native engine"

    def __init__(
        self,
        port: Port,
        tokenizer: Tokenizer,
        context_len: int,
        seed: int,
        identity: EngineIdentity,
        settings: RunSettings | None = None,
        chat: ChatIds | None = None,
    ) -> None:
        super().__init__(tokenizer, context_len, seed, identity, chat)
        self.port = port
        self._settings = settings
        rows = int(identity.info.get("embedding_rows", tokenizer.n_words))
        is_known = rows != ANY_VOCAB
        self._ends = tuple(one for one in tokenizer.eos_ids if not is_known or one < rows)
        # rows without a token must not be drawn
        is_padded = is_known and rows > tokenizer.n_words
        self._allowed = tuple(range(tokenizer.n_words)) if is_padded else ()

    @classmethod
    def check_settings(cls, settings: RunSettings) -> None:
        """Check what needs neither data nor model.

        Raises:
            EngineError: vLLM is not installed.
            UsageError: the model is one that vLLM cannot run.
        """
        vllm_port.require_vllm()
        if settings.model == TINY:
            raise UsageError(
                "--model tiny has heads of 16 numbers, and vLLM needs 32 or more. Give a model's "
                "folder, or leave --engine out."
            )
        if settings.adapter is not None:
            raise UsageError(f"--adapter: {UNWANTED}.")
        is_trusted(settings.model_args)

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "VllmEngine":
        """Check the run's checkpoint and start vLLM with it.

        Raises:
            CheckpointError, TokenizerError, HubError: the checkpoint cannot be used.
            EngineError: vLLM is not installed, or cannot start.
            UsageError: it does not take these `model_args`.
        """
        del gold
        cls.check_settings(settings)
        trusted = is_trusted(settings.model_args)
        tokenizer_args, rest = split_tokenizer_args(settings.model_args)
        arguments = engine_arguments(rest, vllm_port.argument_types())
        device = vllm_port.device_type()
        _check_device(settings.device, device)
        folder = _folder(settings, trusted=trusted, say=say)
        model = _checked(folder, settings.dtype, torch.device(device))
        tokenizer = load_tokenizer(
            folder, expected_vocab=model.rows, args=tokenizer_args.beside(folder)
        )
        port = vllm_port.VllmPort(
            {
                "load_format": "auto",
                **arguments,
                **vllm_port.cpu_arguments(arguments, device, model.context_len),
                "model": str(folder),
                "config_format": "hf",
                "hf_overrides": model.overrides,
                "dtype": model.dtype,
                "skip_tokenizer_init": True,  # token ids in, token ids out
                "generation_config": "vllm",  # nothing from generation_config.json
                "seed": 0,  # every draw has its own
            }
        )
        name, number = vllm_port.installed() or ("vllm", "")
        # a prompt leaves room for one new token, which vLLM always draws
        context_len = port.max_model_len - 1
        identity = EngineIdentity(
            "vllm",
            number,
            model.weights,
            tokenizer.fingerprint,
            model.dtype,
            device,
            " ".join(filter(None, (f"asked {VERSION}", deciding(arguments)))),
            info={
                **model.info,
                "model_dtype": model.dtype,
                "model_revision": settings.revision or "",
                "max_length": context_len,
                "embedding_rows": model.rows,
            },
            notes=(*model.notes, *tokenizer.notes, *_padding(tokenizer, model.rows)),
        )
        say(f"{name} {number} is running on {device} in {model.dtype}.")
        place = tokenizer_args.file or folder
        chat = ChatIds(tokenizer, settings.chat_template, folder, place)
        return cls(port, tokenizer, context_len, settings.seed, identity, settings, chat)

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> NativeEncoder:
        """Return an encoder with the tokenizer of the run's model, without vLLM."""
        return NativeEngine.encoder(settings, identity, _resolve(settings))

    def encode(self, request: Request) -> Encoded:
        """Encode a request as the native engine does, for prompts of `context_len` tokens.

        Raises:
            EngineError: see `NativeEncoder.encode`; or the temperature is above vLLM's maximum.
        """
        if request.kind == "generate" and request.generation.temperature > 2:
            raise EngineError(
                f"{request.benchmark} asks for temperature {request.generation.temperature}, and "
                "vLLM samples at 2 or below. Use --engine native."
            )
        return super().encode(request)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Ask vLLM; a bounded number of requests is in flight, and each reply comes as it ends.

        Ctrl-C in a terminal reaches vLLM's processes too. If they end for that reason, so does the
        answering, as for any stop.
        """
        if not encoded:
            return
        kind = encoded[0].request.kind
        answers = self._generated if kind == "generate" else self._scored
        try:
            yield from answers(encoded, frozenset(known), stop)
        except EngineError:
            if not stop():
                raise

    def _scored(
        self, encoded: Sequence[Encoded], known: Collection[int], stop: Stop
    ) -> Iterator[tuple[int, Reply]]:
        """Score continuations, and the windows of whole texts."""
        missing: dict[int, int] = {}
        sums: dict[int, float] = {}
        owners: list[int] = []
        asked: list[ScoreRequest] = []
        is_rolling = encoded[0].request.kind == "rolling"
        for index, item in enumerate(encoded):
            if index in known:
                continue
            windows = item.work if is_rolling else (item.work,)
            if not windows:
                yield index, Reply()
            missing[index], sums[index] = len(windows), 0.0
            owners += [index] * len(windows)
            asked += windows
        check_score_requests(asked, self.context_len, self.tokenizer.n_words)
        calls = score_calls(list(enumerate(asked)), has_among=self.port.has_among)
        for place, score in run_calls(self.port, calls, stop):
            owner = owners[place]
            missing[owner] -= 1
            sums[owner] += score.logprob
            if not missing[owner]:
                yield owner, Reply(sums[owner], not is_rolling and score.is_greedy)

    def _generated(
        self, encoded: Sequence[Encoded], known: Collection[int], stop: Stop
    ) -> Iterator[tuple[int, Reply]]:
        """Generate replies; the samples of a question follow each other and share its prompt."""
        asked = [index for index in range(len(encoded)) if index not in known]
        for index in asked:
            if not encoded[index].work.max_tokens:
                yield index, Reply(ids=(), finish="length")
        calls = (
            GenerateCall(index, encoded[index].work, self._ends, self._allowed)
            for index in asked
            if encoded[index].work.max_tokens
        )
        for index, reply in run_calls(self.port, calls, stop):
            yield index, self.decode(encoded[index], reply.ids, reply.finish)

    def close(self) -> None:
        """End vLLM and its processes."""
        self.port.close()

    def checks(self, request: Request) -> bool:
        """Return whether `check` can compare the reply."""
        return is_comparable(request)

    @cached_property
    def _twin(self) -> NativeTwin:
        """The native engine with the same model; vLLM ends first, since it holds the memory."""
        assert self._settings is not None
        self.close()
        return NativeTwin(self._settings, self.identity.dtype)

    def check(self, encoded: Encoded, reply: Reply) -> Check:
        """Answer one request on the native engine's plain path and compare the replies."""
        return self._twin.check(encoded, reply)


@dataclass(frozen=True, slots=True)
class _Model:
    """A checkpoint that was checked, and what vLLM is to know about it.

    Attributes:
        weights: digest.
        dtype: a name in torch.
        rows: rows of the embedding; `ANY_VOCAB` if unknown.
        context_len: by the configuration.
        overrides: fields of config.json that vLLM would read otherwise than the native engine.
        info: lm-eval's fields about the model.
        notes: for the table.
    """

    weights: str
    dtype: str
    rows: int
    context_len: int
    overrides: Mapping[str, Any]
    info: Mapping[str, Any]
    notes: tuple[str, ...]


def _check_device(asked: str, device: str) -> None:
    """Check `--device` against what the installed vLLM was built for.

    Raises:
        EngineError: they differ, or a numbered device is asked for.
    """
    if asked in ("auto", device):
        return
    if asked.partition(":")[0] == device:
        raise EngineError(
            f"--device {asked}: vLLM takes the first devices that it sees. Give --device {device}, "
            "and choose devices with CUDA_VISIBLE_DEVICES."
        )
    raise EngineError(
        f"--device {asked}: the installed vLLM computes on {device}. Leave --device out, or "
        "install the other build in an environment of its own."
    )


def _folder(settings: RunSettings, *, trusted: bool, say: Say) -> Path:
    """Return the folder of a whole model in Hugging Face's format, after downloading it if needed.

    Raises:
        CheckpointError, HubError, ResourceError: see `resolve_parts`.
        EngineError: it is in a format that vLLM does not read with our configuration.
        UsageError: it is an adapter.
    """
    resolve = _resolve(settings)
    parts = resolve_parts(settings.model, revision=settings.revision, say=say, resolve=resolve)
    if parts.adapter is not None:
        raise UsageError(f"--model {settings.model} is an adapter: {UNWANTED}.")
    if find_gguf(parts.base) is not None:
        raise EngineError(
            f"The vllm engine does not read GGUF files, and {parts.base} is one or holds one: "
            "vLLM 0.32 reads safetensors. Use --engine native."
        )
    check_folder(parts.base, trusted=trusted)
    if not (parts.base / "config.json").is_file():
        raise EngineError(
            f"{parts.base} should hold config.json for the vllm engine, and does not: take the "
            "model's Hugging Face folder, or use --engine native."
        )
    return parts.base


def _resolve(settings: RunSettings) -> Resolve:
    """Return what finds a model's folder: vLLM reads the formats that transformers reads."""
    programs = is_trusted(settings.model_args)
    return partial(resolve_model, reader="transformers", programs=programs)


def _checked(folder: Path, asked: str, device: torch.device) -> _Model:
    """Check a model as the native engine does, reading each tensor once.

    Models of other families, and quantised ones, are left to vLLM's own checks.

    Raises:
        CheckpointError: the native engine would refuse it too.
        ResourceError: not even two layers fit in the free memory.
    """
    try:
        dtype = folder_dtype(folder, asked, read_config(folder, {}), device)
        checkpoint = load_checkpoint(folder, dtype=dtype, stream_layers=True)
    except UnsupportedError:
        values = read_json(folder / "config.json")
        text = values.get("text_config") or values
        dtype = choose_dtype(asked, named_dtype(text), stored_dtype(folder), device)
        longest = text.get("max_position_embeddings", UNKNOWN_CONTEXT)
        notes = ("vLLM alone has checked the weights", *folder_notes(folder))
        return _Model(files_digest(folder), _name(dtype), ANY_VOCAB, longest, {}, {}, notes)
    config = checkpoint.config
    count = sum(map(math.prod, expected_shapes(config).values()))
    return _Model(
        checkpoint.fingerprint,
        _name(dtype),
        config.vocab_size,
        config.context_len,
        # a file whose matrices differ is not tied, whatever its configuration says
        {"tie_word_embeddings": config.tied_embeddings},
        {"model_num_parameters": count},
        checkpoint.notes,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _padding(tokenizer: Tokenizer, rows: int) -> tuple[str, ...]:
    """Return a note if the model has rows without a token, which vLLM's probabilities count."""
    surplus = rows - tokenizer.n_words
    if surplus <= 0:
        return ()
    note = (
        f"probabilities count {surplus} embedding rows without a token (--engine native leaves "
        "them out)"
    )
    return (note,)
