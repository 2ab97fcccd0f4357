"""A model without its weights: configuration, tokenizer and dtype, from small files alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download

from mistral_eval.errors import CheckpointError, HubError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.hub import small_files
from mistral_eval.model.load.hub_errors import CONNECTION_ERRORS, sentence_for
from mistral_eval.model.load.weights import DTYPES
from mistral_eval.model.memory import TRY_TINY
from mistral_eval.model.tiny import TINY_CONFIG, tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import Tokenizer, load_tokenizer

TINY = "tiny"
_ANY_VOCAB = 1 << 30


@dataclass(frozen=True, slots=True)
class Outline:
    """What decides how much a run computes, but not what comes out."""

    config: ModelConfig
    tokenizer: Tokenizer
    dtype: torch.dtype


def read_outline(
    ref: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device,
    overrides: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Outline:
    """The outline of a folder, a hub name (its small files are fetched) or `tiny`.

    Args:
        ref: as `--model` takes it.
        revision: branch, tag or commit of a hub name.
        dtype: what to run in; `auto` is what config.json says of the weights, bfloat16 where
            nothing is said, and float32 instead of float16 on the CPU.
        device: where the model would run.
        overrides: `--model-args`.
        say: told what is fetched.

    Raises:
        CheckpointError, TokenizerError, HubError, UsageError: it cannot be read.
    """
    if ref == TINY:
        tokenizer = load_tokenizer(tiny_tokenizer_file(), expected_vocab=TINY_CONFIG.vocab_size)
        return Outline(TINY_CONFIG, tokenizer, DTYPES.get(dtype, torch.float32))
    folder = Path(ref).expanduser()
    if not folder.exists():
        folder = _fetch(ref, revision, say)
    tokenizer = load_tokenizer(folder, expected_vocab=_ANY_VOCAB)
    config, stored = _config(folder, overrides or {})
    if config.vocab_size == -1:
        config = replace(config, vocab_size=tokenizer.n_words)
    if stored == torch.float16 and device.type == "cpu":
        stored = torch.float32
    return Outline(config, tokenizer, DTYPES.get(dtype, stored))


def _config(folder: Path, overrides: Mapping[str, str]) -> tuple[ModelConfig, torch.dtype]:
    """The configuration, and the dtype it gives the weights."""
    if (folder / "config.json").is_file():
        values = read_json(folder / "config.json")
        name = str(values.get("dtype") or values.get("torch_dtype") or "bfloat16")
        return from_hf_config(values, overrides).config, DTYPES.get(name, torch.float32)
    if (folder / "params.json").is_file():
        values = read_json(folder / "params.json")
        return from_params_json(values, overrides).config, torch.bfloat16
    raise CheckpointError(
        f"{folder} should hold config.json or params.json and holds neither: give a model's "
        f"folder, {TRY_TINY}."
    )


def _fetch(ref: str, revision: str | None, say: Callable[[str], None] | None) -> Path:
    """The snapshot with at least configuration and tokenizer, from the cache or the hub."""
    if say and not constants.HF_HUB_OFFLINE:
        say(f"Reading {ref}'s configuration and tokenizer; its weights are not fetched.")
    try:
        return Path(snapshot_download(ref, revision=revision, allow_patterns=small_files()))
    except CONNECTION_ERRORS as error:
        raise HubError(sentence_for(error, ref, revision)) from error
