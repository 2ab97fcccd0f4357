"""Read a model's configuration, tokenizer and dtype without loading its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import constants

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.adapter import resolve_parts
from mistral_eval.model.load.config_gguf import from_gguf
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.folder import check_folder
from mistral_eval.model.load.gguf_file import find_gguf, read_gguf
from mistral_eval.model.load.hub import check_reference, fetch, find_local, small_files
from mistral_eval.model.load.stored import stored_dtype
from mistral_eval.model.load.weights import choose_dtype
from mistral_eval.model.memory import TRY_TINY
from mistral_eval.model.tiny import TINY_CONFIG, tiny_tokenizer_file
from mistral_eval.model.tokenizers.special import split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, Tokenizer, load_tokenizer
from mistral_eval.settings import TINY


@dataclass(frozen=True, slots=True)
class Outline:
    """What decides how much a run computes, but not its results.

    `places` are the model's folder or file, and the one with the tokenizer; `is_tuned` tells
    whether an adapter is merged into the model.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    dtype: torch.dtype
    places: tuple[Path, Path]
    is_tuned: bool = False


def read_outline(
    ref: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device,
    overrides: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Outline:
    """Read the outline of a folder or GGUF file, a hub name (small files only) or `tiny`.

    Args:
        ref: the value of `--model`.
        adapter: the value of `--adapter`.
        revision: branch, tag or commit of a hub name.
        dtype: the dtype to compute in, or `auto` (see `choose_dtype`). Where neither config.json
            nor a weight file in the folder tells the stored dtype, bfloat16 is assumed.
        device: where the model would run.
        overrides: `--model-args`.
        say: called with a sentence before files are fetched.

    Raises:
        CheckpointError, TokenizerError, HubError, UsageError: the model cannot be read.
    """
    check_reference(ref, revision)
    args, fields = split_tokenizer_args(overrides or {})
    if ref == TINY:
        rows, file = TINY_CONFIG.vocab_size, tiny_tokenizer_file()
        tokenizer = load_tokenizer(file, expected_vocab=rows, args=args)
        tiny_dtype = choose_dtype(dtype, torch.float32, None, device)
        return Outline(TINY_CONFIG, tokenizer, tiny_dtype, (file, args.file or file))
    parts = resolve_parts(ref, adapter, revision=revision, say=say, resolve=small_parts)
    if find_gguf(parts.base) is None:
        check_folder(parts.base)
    args = args.beside(parts.tokenizer)
    tokenizer = load_tokenizer(parts.base, expected_vocab=ANY_VOCAB, args=args)
    found = read_config(parts.base, fields)
    config = found.config
    if config.vocab_size == -1:
        config = replace(config, vocab_size=tokenizer.n_words)
    chosen = folder_dtype(parts.base, dtype, found, device)
    places = (parts.base, args.file or parts.base)
    return Outline(config, tokenizer, chosen, places, is_tuned=parts.adapter is not None)


def small_parts(
    ref: str, *, revision: str | None, say: Callable[[str], None] | None = None
) -> Path:
    """Return a model's folder; of a hub name only configuration and tokenizer are fetched.

    Raises:
        CheckpointError: `ref` is neither on the disk nor a name as on the hub.
        HubError: the hub refuses, does not know the name, or cannot be reached.
    """
    folder = find_local(ref)
    if folder is not None:
        return folder
    if say and not constants.HF_HUB_OFFLINE:
        say(f"Reading {ref}'s configuration and tokenizer; its weights are not fetched.")
    return fetch(ref, revision, small_files())


def read_config(
    folder: Path, overrides: Mapping[str, str], *, instead: str = TRY_TINY
) -> ConfigFile:
    """Read a model's configuration: of a GGUF file, of config.json or of params.json.

    Raises:
        CheckpointError: there is none (`instead` ends the sentence), or it cannot be used.
        UsageError: an override names no field.
    """
    gguf_file = find_gguf(folder)
    if gguf_file is not None:
        return from_gguf(read_gguf(gguf_file), overrides)
    if (folder / "config.json").is_file():
        return from_hf_config(read_json(folder / "config.json"), overrides)
    if (folder / "params.json").is_file():
        return from_params_json(read_json(folder / "params.json"), overrides)
    raise CheckpointError(
        f"{folder} should hold config.json or params.json and holds neither: give a model's "
        f"folder, {instead}."
    )


def folder_dtype(folder: Path, asked: str, found: ConfigFile, device: torch.device) -> torch.dtype:
    """Return the dtype that `load_checkpoint` would choose for this folder."""
    stored = stored_dtype(folder) if asked == "auto" and found.dtype is None else None
    return choose_dtype(asked, found.dtype, stored, device)
