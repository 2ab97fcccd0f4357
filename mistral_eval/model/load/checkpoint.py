"""Load a model: configuration, weights and fingerprint.

Formats: Hugging Face (config.json with model.safetensors, or its index and shards), Mistral's own
(params.json with consolidated.safetensors or consolidated.00.pth) and GGUF (one file, or its
parts).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mistral_eval.errors import CheckpointError, UnsupportedError, UsageError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.adapter import merged
from mistral_eval.model.load.by_layer import LayerReader, is_streamed, read_streamed
from mistral_eval.model.load.config_gguf import from_gguf, source_of
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.load.fields import USE_HF, read_json
from mistral_eval.model.load.folder import check_folder, folder_notes
from mistral_eval.model.load.gguf_file import find_gguf, read_gguf
from mistral_eval.model.load.hf_names import text_tensors
from mistral_eval.model.load.stored import (
    HF_INDEX,
    HF_SINGLE,
    RAW_PICKLE,
    RAW_SAFETENSORS,
    open_hf_tensors,
    open_pickle,
    open_safetensors,
)
from mistral_eval.model.load.weights import (
    Dtype,
    Source,
    check_tensors,
    choose_dtype,
    model_fingerprint,
    read_weights,
    settle_tied,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that `Transformer` is built from.

    Attributes:
        weights: by mistral-inference's names (tok_embeddings.weight, layers.N.attention.wq.weight,
            ..., output.weight unless tied), wq and wk in RoPE's half-split layout.
        fingerprint: of the configuration and the weights as stored.
        notes: sentences for the user about what was assumed or converted.
        layers: reads the tensors of layers, which `weights` then lacks; None if all are in memory.
    """

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    fingerprint: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    layers: LayerReader | None = None


def load_checkpoint(
    path: Path,
    *,
    adapter: Path | None = None,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    overrides: Mapping[str, str] | None = None,
    stream_layers: bool | None = False,
) -> Checkpoint:
    """Load a model from a folder or a GGUF file.

    Args:
        path: the folder or file. Of several formats in a folder the first of Hugging Face's,
            Mistral's and GGUF is read.
        adapter: the folder of a LoRA adapter to merge into it.
        dtype: the dtype to compute in, a torch.dtype, its name or 'auto' (see `choose_dtype`).
        device: where the weights go.
        overrides: `--model-args`, text by field name.
        stream_layers: leave the layers in the files; None: if they do not fit in `device`'s memory.

    Raises:
        CheckpointError: something is missing, unexpected, malformed or not supported.
        ResourceError: there is not enough memory.
        UsageError: an override names no field, or layers of a model with an adapter are to be
            streamed.
    """
    device = torch.device(device)
    source, found, files, notes = _open(path, overrides or {})
    config = found.config
    if config.vocab_size == -1:
        config = replace(config, vocab_size=_embedding_rows(source))
    source, config, tied = settle_tied(source, config)
    check_tensors(source, config)
    stored = source.tensors[source.name("tok_embeddings.weight")].dtype
    chosen = choose_dtype(dtype, found.dtype, stored, device)
    kinds = sorted({tensor.kind for tensor in source.tensors.values()})
    name = str(chosen).removeprefix("torch.")
    if kinds != [name]:
        notes = (*notes, f"weights stored as {', '.join(kinds)}, run in {name}")
    if adapter is not None:
        if stream_layers:
            raise UsageError(
                f"--stream-layers reads layers as they are stored, and the adapter {adapter.name} "
                "changes them: merge it into the model's files with peft and give the merged "
                "folder, or leave --stream-layers out."
            )
        stream_layers = False
        source, config, untied = settle_tied(merged(source, adapter, chosen), config)
        check_tensors(source, config)
        notes = (
            *notes,
            *untied,
            f"the LoRA adapter {adapter.name} was merged into the base model by peft",
        )
    layers = None
    if is_streamed(config, chosen, device, asked=stream_layers):
        weights, layers, digests = read_streamed(source, config, chosen, device)
    else:
        weights, digests = read_weights(source, config, chosen, device)
    fingerprint = model_fingerprint(config, digests)
    notes = (*found.notes, *tied, *notes, *folder_notes(path))
    return Checkpoint(config, weights, fingerprint, files, notes, layers)


def _open(
    path: Path, overrides: Mapping[str, str]
) -> tuple[Source, ConfigFile, tuple[Path, ...], tuple[str, ...]]:
    """Detect the format and read configuration and headers, but no weights."""
    gguf_file = find_gguf(path)
    if gguf_file is not None:
        gguf = read_gguf(gguf_file)
        return source_of(gguf), from_gguf(gguf, overrides), gguf.files, ()
    check_folder(path)
    has_hf = _has(path, "config.json") and (_has(path, HF_SINGLE) or _has(path, HF_INDEX))
    raw_file = next((path / n for n in (RAW_SAFETENSORS, RAW_PICKLE) if _has(path, n)), None)
    has_raw = _has(path, "params.json") and raw_file is not None
    if has_hf:
        config_file = path / "config.json"
        # the configuration first: its errors explain more than a tensor's
        found = from_hf_config(read_json(config_file), overrides)
        tensors, files = open_hf_tensors(path)
        note = "the folder also holds Mistral's format (params.json); Hugging Face's was read"
        both = f"the folder also holds {HF_INDEX}; {HF_SINGLE} was read, as transformers does"
        has_both = _has(path, HF_SINGLE) and _has(path, HF_INDEX)
        notes = ((note,) if has_raw else ()) + ((both,) if has_both else ())
        source = Source(path, text_tensors(tensors), is_hf=True)
        return source, found, (config_file, *files), notes
    if has_raw:
        assert raw_file is not None
        _check_single_part(path)
        found = from_params_json(read_json(path / "params.json"), overrides)
        is_pickle = raw_file.suffix == ".pth"
        tensors = open_pickle(raw_file) if is_pickle else open_safetensors(raw_file)
        return Source(path, tensors, is_hf=False), found, (path / "params.json", raw_file), ()
    raise _no_checkpoint(path)


def _has(path: Path, name: str) -> bool:
    """Return whether the folder holds this file."""
    return (path / name).is_file()


def _check_single_part(path: Path) -> None:
    """Raise for raw models that Meta splits into tensor-parallel parts."""
    if _has(path, "consolidated.01.pth"):
        raise CheckpointError(
            f"{path} holds a raw model in several parts (consolidated.01.pth, ...), which the "
            "native engine does not read: take the model's Hugging Face folder."
        )


def _no_checkpoint(path: Path) -> CheckpointError:
    """Return the error that names the missing file."""
    names = sorted(file.name for file in path.iterdir())
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names):
        return UnsupportedError(
            f"{path} holds its weights as pytorch_model*.bin, which the native engine does not "
            f"read: convert them to safetensors, or {USE_HF}."
        )
    if any(name.startswith("model-") and name.endswith(".safetensors") for name in names):
        return CheckpointError(
            f"{path} holds shards and no {HF_INDEX}, which lists their tensors: "
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
        "Copy the missing files there, or give another model's folder."
    )


def _embedding_rows(source: Source) -> int:
    """Return the number of embedding rows, the vocabulary of a file that does not state it."""
    name = source.name("tok_embeddings.weight")
    if name not in source.tensors or len(source.tensors[name].shape) != 2:
        raise source.error(
            f"a two-dimensional tensor {name}, which gives the vocabulary's size, is missing: "
            "copy or download the checkpoint again."
        )
    return source.tensors[name].shape[0]
