"""A model folder -> configuration, weights and fingerprint, or one sentence saying why not.

Formats: Hugging Face (config.json with model.safetensors, or its index and shards) and Mistral's
own (params.json with consolidated.safetensors or consolidated.00.pth).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mistral_eval.errors import CheckpointError, UnsupportedError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.checkpoint_digest import model_fingerprint
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.load.fields import USE_HF, read_json
from mistral_eval.model.load.stored import open_index, open_pickle, open_safetensors
from mistral_eval.model.load.weights import Dtype, Source, check_tensors, choose_dtype, read_weights

HF_SINGLE, HF_INDEX = "model.safetensors", "model.safetensors.index.json"
RAW_SAFETENSORS, RAW_PICKLE = "consolidated.safetensors", "consolidated.00.pth"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to be built.

    `weights` has params.json's names (tok_embeddings.weight, layers.N.attention.wq.weight, ...,
    output.weight unless tied) with wq and wk in RoPE's half-split layout. `fingerprint` is of
    configuration and weights as stored; `files` is what was read; `notes` what the user should see.
    """

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    fingerprint: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def load_checkpoint(
    path: Path,
    *,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    overrides: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Load a model folder.

    Args:
        path: the folder. Where it holds both formats, Hugging Face's is read.
        dtype: what to run in, a torch.dtype or its name; 'auto' is as stored (but see
            `weights.choose_dtype`).
        device: where the weights go.
        overrides: `--model-args`, text by field name.

    Raises:
        CheckpointError: anything missing, left over, malformed or not computed by this engine.
        ResourceError: not enough memory.
        UsageError: an override that names no field.
    """
    device = torch.device(device)
    source, found, files, notes = _open(path, overrides or {})
    config = found.config
    if config.vocab_size == -1:
        config = replace(config, vocab_size=_embedding_rows(source))
    check_tensors(source, config)
    chosen, dtype_notes = choose_dtype(dtype, source, device)
    weights = read_weights(source, config, chosen, device)
    return Checkpoint(
        config,
        weights.tensors,
        model_fingerprint(config, weights.digests),
        files,
        (*notes, *found.notes, *dtype_notes),
    )


def _open(
    path: Path, overrides: Mapping[str, str]
) -> tuple[Source, ConfigFile, tuple[Path, ...], tuple[str, ...]]:
    """Recognise the format; headers are read, weights are not."""
    _check_folder(path)
    has_hf = _has(path, "config.json") and (_has(path, HF_SINGLE) or _has(path, HF_INDEX))
    raw_file = next((path / n for n in (RAW_SAFETENSORS, RAW_PICKLE) if _has(path, n)), None)
    has_raw = _has(path, "params.json") and raw_file is not None
    if has_hf:
        config_file = path / "config.json"
        # the configuration first: its complaint says more than a tensor's
        found = from_hf_config(read_json(config_file), overrides)
        files: tuple[Path, ...] = (config_file, path / HF_SINGLE)
        if _has(path, HF_SINGLE):
            tensors = open_safetensors(path / HF_SINGLE)
        else:
            tensors, shards = open_index(path / HF_INDEX)
            files = (config_file, path / HF_INDEX, *shards)
        note = "the folder holds params.json's format too; Hugging Face's was read"
        notes = (note,) if has_raw else ()
        return Source(path, tensors, is_hf=True), found, files, notes
    if has_raw:
        assert raw_file is not None
        _check_single_part(path)
        found = from_params_json(read_json(path / "params.json"), overrides)
        is_pickle = raw_file.suffix == ".pth"
        tensors = open_pickle(raw_file) if is_pickle else open_safetensors(raw_file)
        return Source(path, tensors, is_hf=False), found, (path / "params.json", raw_file), ()
    raise _no_checkpoint(path)


def _has(path: Path, name: str) -> bool:
    """Whether the folder holds this file."""
    return (path / name).is_file()


def _check_folder(path: Path) -> None:
    """Stop at what is no model folder, or is one that changes another model."""
    if not path.is_dir():
        kind = "a file" if path.exists() else "not there"
        raise CheckpointError(
            f"{path} should be a folder with a model's files and is {kind}: give the folder, "
            "a Hugging Face name such as mistralai/Mistral-7B-v0.1, or tiny."
        )
    if _has(path, "adapter_config.json"):
        raise UnsupportedError(
            f"{path} is a LoRA folder (adapter_config.json), a change to another model: "
            f"merge it into its base model, or {USE_HF}."
        )


def _check_single_part(path: Path) -> None:
    """Meta splits its larger raw models over GPUs; such parts are not put together here."""
    if _has(path, "consolidated.01.pth"):
        raise CheckpointError(
            f"{path} holds a raw model in several parts (consolidated.01.pth, ...), which is not "
            "read: take the model's Hugging Face folder."
        )


def _no_checkpoint(path: Path) -> CheckpointError:
    """Say which file of which format is missing."""
    names = sorted(file.name for file in path.iterdir())
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names):
        return UnsupportedError(
            f"{path} holds its weights as pytorch_model*.bin, which the native engine does not "
            f"read: convert them to safetensors, or {USE_HF}."
        )
    if any(name.startswith("model-") and name.endswith(".safetensors") for name in names):
        return CheckpointError(
            f"{path} holds shards and no {HF_INDEX}, which says what lies where: "
            "copy or download it too."
        )
    if "config.json" in names:
        wanted = f"{HF_SINGLE} or {HF_INDEX} beside config.json"
    elif "params.json" in names:
        wanted = f"{RAW_SAFETENSORS} or {RAW_PICKLE} beside params.json"
    else:
        wanted = f"config.json with {HF_SINGLE}, or params.json with {RAW_SAFETENSORS}"
    shown = ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")
    return CheckpointError(
        f"{path} should hold {wanted}; it holds {shown or 'nothing'}. "
        "Copy what is missing there, or give another model's folder."
    )


def _embedding_rows(source: Source) -> int:
    """The vocabulary of a file that leaves it to the embedding."""
    name = source.name("tok_embeddings.weight")
    if name not in source.tensors or len(source.tensors[name].shape) != 2:
        raise source.error(f"tensor {name} of two dimensions is missing, so is the vocabulary.")
    return source.tensors[name].shape[0]
