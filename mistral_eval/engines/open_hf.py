"""A model reference to lm-eval's `hf` model, with the two repairs Mistral's tokenizer needs.

BOS is asked for, or a folder whose tokenizer forgets it would score without. lm-eval decodes a
continuation alone, which loses the space its first piece stands for (one pass@1 was 1.2 % instead
of 27 %): it is decoded behind an anchor here, and the anchor cut off.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from mistral_eval.engines.lm import LmBackend
from mistral_eval.engines.open_native import TINY, choose_device, tiny_model
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.hub import resolve_model
from mistral_eval.model.tiny import tiny_tokenizer_file

ANCHOR = "a"
CHUNK = 1 << 24


class AnchoredHFLM(HFLM):
    """lm-eval's `hf` model, decoding generated ids as they read after other text.

    What the checkpoint's generation_config.json asks for (penalties, cuts) is dropped, all but its
    special ids: the protocol alone says how a reply is drawn.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        theirs = self.model.generation_config
        self.model.generation_config = GenerationConfig(
            bos_token_id=theirs.bos_token_id,
            eos_token_id=theirs.eos_token_id,
            pad_token_id=theirs.pad_token_id,
            top_k=0,
        )

    def tok_decode(self, tokens: Iterable[int] | int, *, skip_special_tokens: bool = True) -> str:
        """Text of ids that follow a prompt; a single id (lm-eval asks for EOS) as it is."""
        if isinstance(tokens, int):
            return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))
        anchor = self.tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
        ids = tokens.tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
        text = self.tokenizer.decode(anchor + ids, skip_special_tokens=skip_special_tokens)
        return str(text).removeprefix(ANCHOR)

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: FBT001, FBT002 - lm-eval's
    ) -> list[float]:
        """lm-eval puts BOS before a whole text itself: encoding must not add a second one."""
        self.add_bos_token = False
        try:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = True  # as `_load` asked for it
        return found


def open_hf(
    pretrained: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    model_args: Mapping[str, str] | None = None,
) -> LmBackend:
    """Load a checkpoint into lm-eval's `hf` model.

    Args:
        pretrained: a hub id, a folder that transformers can read, or `tiny`.
        revision: branch, tag or commit of a hub id.
        dtype: as transformers names it; `auto` is as stored.
        device: `auto` (cuda where there is one), or torch's name for it.
        seed: seeds torch's generator, from which replies are drawn.
        model_args: passed to lm-eval's model, e.g. batch_size, peft, trust_remote_code.

    Raises:
        EngineError: transformers cannot load the folder.
        HubError: the checkpoint could not be had.
    """
    arguments: dict[str, Any] = {"batch_size": 8, **(model_args or {})}
    where = choose_device(device)
    torch.manual_seed(seed)
    if pretrained == TINY:
        with tempfile.TemporaryDirectory(prefix="mistral-eval-tiny-") as folder:
            file = tiny_tokenizer_file()
            save_hf(tiny_model(dtype, torch.device("cpu")), Path(folder), tokenizer_file=file)
            return _load(Path(folder), dtype, where, seed, arguments)
    return _load(resolve_model(pretrained, revision=revision), dtype, where, seed, arguments)


def _load(
    folder: Path, dtype: str, device: torch.device, seed: int, arguments: Mapping[str, Any]
) -> LmBackend:
    try:
        lm = AnchoredHFLM(
            pretrained=str(folder),
            dtype=dtype,
            device=str(device),
            add_bos_token=True,
            **arguments,
        )
    except TypeError as error:
        raise UsageError(
            f"lm-eval's hf model does not take these --model-args: {error}."
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"transformers cannot load {folder} with {dict(arguments)} ({first}). The hf engine "
            "wants a Hugging Face folder with config.json, weights that fit it, and a tokenizer."
        ) from error
    identity = _identity(folder, dtype, device, arguments)
    return LmBackend(lm, "hf", f"hf {identity}", seed)


def _identity(folder: Path, dtype: str, device: torch.device, arguments: Mapping[str, Any]) -> str:
    """What a reply depends on: files, also those that arguments point to, and the libraries."""
    digest = hashlib.sha256()
    for part in (folder, *(Path(str(value)) for value in arguments.values())):
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file():
                digest.update(f"{file.relative_to(part)}\0{file.stat().st_size}\0".encode())
                with file.open("rb") as content:
                    while chunk := content.read(CHUNK):
                        digest.update(chunk)
    libraries = [f"{name} {version(name)}" for name in ("lm_eval", "torch", "transformers")]
    given = str(sorted(arguments.items()))
    return " ".join([digest.hexdigest(), dtype, device.type, given, *libraries])
