"""lm-eval's `hf` model as an engine, for checkpoints that the native engine does not support.

It samples with torch's global generator, so sampled replies depend on batching. BOS is added and
generation ends as the native engine would have it (see `model.tokenizers`). One fix for Mistral's
tokenizers: generated ids are decoded after an anchor. lm-eval decodes them alone and loses the
leading space of the first token (pass@1 of 1.2 % instead of 27 %).
"""

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from mistral_eval.engines.interface import (
    Encoded,
    Engine,
    EngineIdentity,
    Gold,
    Kind,
    Reply,
    Say,
    Stop,
    TextEncoder,
    never,
)
from mistral_eval.engines.lm_eval_model import instance_of
from mistral_eval.engines.native import TINY, choose_device, tiny_model
from mistral_eval.errors import EngineError, TokenizerError, UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.adapter import resolve_parts
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.load.quantised import check_hf_dtype
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.special import TOKENIZER, TokenizerArgs, split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, Tokenizer, load_tokenizer
from mistral_eval.settings import RunSettings

ANCHOR: Final = "a"
CHUNK: Final = 1 << 24  # bytes read at once for a digest
CALL: Final = 256  # requests per call: at most these are lost by a kill or delay a stop


class HFEngine(TextEncoder, Engine):
    """An engine that wraps an lm-eval model.

    Args:
        lm: the model.
        seed, identity: see `TextEncoder`.
    """

    def __init__(self, lm: LM, seed: int, identity: EngineIdentity) -> None:
        super().__init__(seed, identity)
        self.lm = lm

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
        )

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Pass requests to lm-eval's model, `CALL` at a time, the longest first."""
        asked = [index for index in range(len(encoded)) if index not in known]
        order = sorted(asked, key=lambda i: -len(encoded[i].request.context))
        for start in range(0, len(order), CALL):
            if stop():
                return
            part = order[start : start + CALL]
            instances = [instance_of(encoded[i].request) for i in part]
            yield from zip(part, self._call(encoded[0].request.kind, instances), strict=True)

    def _call(self, kind: Kind, instances: list[Instance]) -> list[Reply]:
        if kind == "score":
            scored = self.lm.loglikelihood(instances)
            return [Reply(float(logprob), bool(greedy)) for logprob, greedy in scored]
        if kind == "rolling":
            return [Reply(float(one)) for one in self.lm.loglikelihood_rolling(instances)]
        return [Reply(text=text, finish="stop") for text in self.lm.generate_until(instances)]


class AnchoredHFLM(HFLM):
    """lm-eval's `hf` model, which decodes generated ids as the continuation of other text.

    The checkpoint's generation_config.json is ignored except for its special ids: only the protocol
    decides how a reply is sampled.

    Args:
        end_ids: each ends a generation; None leaves this to generation_config.json.
        arguments: HFLM's.
    """

    def __init__(self, end_ids: Sequence[int] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        theirs = self.model.generation_config
        self._end_ids = frozenset(end_ids or ())
        self.model.generation_config = GenerationConfig(
            bos_token_id=theirs.bos_token_id,
            eos_token_id=list(end_ids) if end_ids else theirs.eos_token_id,
            pad_token_id=theirs.pad_token_id,
            top_k=0,
        )

    def tok_decode(self, tokens: Iterable[int] | int, *, skip_special_tokens: bool = True) -> str:
        """Decode ids that follow a prompt, up to an end token; decode a single id (EOS) alone."""
        if isinstance(tokens, int):
            return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))
        anchor = self.tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
        ids = tokens.tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
        # an end token may be an ordinary word, which decoding would show
        ids = list(takewhile(lambda token: token not in self._end_ids, ids))
        text = self.tokenizer.decode(anchor + ids, skip_special_tokens=skip_special_tokens)
        return str(text).removeprefix(ANCHOR)

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: FBT001, FBT002 - lm-eval's
    ) -> list[float]:
        """Score whole texts without BOS from the tokenizer, since lm-eval adds a prefix itself."""
        adds_bos: bool | None = self.add_bos_token
        self.add_bos_token = False
        try:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = adds_bos
        return found


def open_hf(
    pretrained: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    model_args: Mapping[str, str] | None = None,
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
        model_args: passed to lm-eval's model, e.g. batch_size, peft, trust_remote_code.

    Raises:
        EngineError: transformers cannot load the folder.
        HubError: the checkpoint could not be downloaded.
        UsageError: lm-eval's model does not take these `model_args`.
    """
    arguments: dict[str, Any] = {"batch_size": 8, **(model_args or {})}
    where = choose_device(device)
    torch.manual_seed(seed)
    if pretrained == TINY:
        with tempfile.TemporaryDirectory(prefix="mistral-eval-tiny-") as folder:
            file = tiny_tokenizer_file()
            save_hf(tiny_model(dtype, torch.device("cpu")), Path(folder), tokenizer_file=file)
            return _load(Path(folder), dtype, where, seed, arguments)
    parts = resolve_parts(pretrained, adapter, revision=revision)
    if find_gguf(parts.base) is not None:
        raise EngineError(
            f"The hf engine does not read GGUF files, and {parts.base} is one or holds one: "
            "transformers ignores the sliding window of their metadata. Use --engine native."
        )
    if parts.adapter is not None:
        # in this order, so that --model-args still wins
        own = {"peft": str(parts.adapter), "tokenizer": str(parts.tokenizer)}
        arguments = {**own, **arguments}
    if (parts.base / "config.json").is_file():
        check_hf_dtype(read_json(parts.base / "config.json"), dtype, where)
    return _load(parts.base, dtype, where, seed, arguments)


def _load(
    folder: Path, dtype: str, device: torch.device, seed: int, arguments: Mapping[str, Any]
) -> HFEngine:
    remote = arguments.get(TOKENIZER)  # lm-eval also takes a name on the hub
    if remote is not None and Path(str(remote)).expanduser().exists():
        remote = None
    local = {k: v for k, v in arguments.items() if remote is None or k != TOKENIZER}
    args, rest = split_tokenizer_args(local)
    tokenizer = None if remote else _own_tokenizer(folder, args)
    if remote:
        rest[TOKENIZER] = remote
    elif args.file is not None:
        rest[TOKENIZER] = str(args.file if args.file.is_dir() else args.file.parent)
    try:
        lm = AnchoredHFLM(
            pretrained=str(folder),
            dtype=dtype,
            device=str(device),
            add_bos_token=tokenizer.adds_bos if tokenizer else args.adds_bos,
            end_ids=tokenizer.eos_ids if tokenizer else None,
            **rest,
        )
    except TypeError as error:
        raise UsageError(
            f"lm-eval's hf model does not take these --model-args: {error}."
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"transformers cannot load {folder} with {dict(arguments)} ({first}). The hf engine "
            "needs a Hugging Face folder with config.json, weights that fit it, and a tokenizer."
        ) from error
    ends = [f"ends {list(tokenizer.eos_ids)}, bos {tokenizer.adds_bos}"] if tokenizer else []
    identity = EngineIdentity(
        "hf",
        weights=_digest(folder, arguments),
        dtype=dtype,
        device=device.type,
        arguments=" ".join([str(sorted(arguments.items())), *ends, *_libraries()]),
        info=lm.get_model_info(),
        notes=tokenizer.notes if tokenizer else (),
    )
    return HFEngine(lm, seed, identity)


def _own_tokenizer(folder: Path, args: TokenizerArgs) -> Tokenizer | None:
    """Return the native engine's tokenizer, which knows BOS and end tokens.

    None if it reads none of the folder's files: transformers' tokenizer decides then.
    """
    try:
        return load_tokenizer(folder, expected_vocab=ANY_VOCAB, args=args)
    except TokenizerError:
        return None


def _digest(folder: Path, arguments: Mapping[str, Any]) -> str:
    """Return a digest of the checkpoint's files and of files named in `arguments`."""
    digest = hashlib.sha256()
    for part in (folder, *(Path(str(value)) for value in arguments.values())):
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file():
                digest.update(f"{file.relative_to(part)}\0{file.stat().st_size}\0".encode())
                with file.open("rb") as content:
                    while chunk := content.read(CHUNK):
                        digest.update(chunk)
    return digest.hexdigest()


def _libraries() -> list[str]:
    return [f"{name} {version(name)}" for name in ("lm_eval", "torch", "transformers")]
