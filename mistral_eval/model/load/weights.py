"""Load the weights of a model: choose the dtype, check every tensor, read each one once."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mistral_eval.errors import CheckpointError, UsageError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import (
    expected_shapes,
    half_split_from_interleaved,
    hf_name,
    is_harmless,
    is_rotated,
)
from mistral_eval.model.load.stored import DTYPES, StoredTensor
from mistral_eval.model.memory import require_memory

Dtype = torch.dtype | str
_JOINED = (".attention.wq.weight", ".attention.wk.weight", ".attention.wv.weight")


@dataclass(frozen=True, slots=True)
class Source:
    """The stored tensors of one checkpoint, by the names of its format."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    is_hf: bool

    def name(self, ours: str) -> str:
        """Return this format's name of the tensor we call `ours`."""
        return hf_name(ours) if self.is_hf else ours

    def error(self, sentence: str) -> CheckpointError:
        """Return a CheckpointError whose sentence begins with the folder."""
        return CheckpointError(f"{self.folder}: {sentence}")


def check_tensors(source: Source, config: ModelConfig) -> None:
    """Compare names and shapes with those the configuration requires, before reading any values.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or has another shape.
    """
    expected = {source.name(ours): shape for ours, shape in expected_shapes(config).items()}
    missing = [name for name in expected if name not in source.tensors]
    if missing:
        hint = "copy or download the checkpoint again"
        if missing == [source.name("output.weight")]:
            tied = "tie_word_embeddings" if source.is_hf else "tied_embeddings"
            hint = f"if the embeddings are tied, give `--model-args {tied}=true`"
        raise source.error(
            f"tensor {missing[0]} of shape {expected[missing[0]]} is missing"
            f"{and_more(missing)}: {hint}."
        )
    tied_output = {source.name("output.weight")} if config.tied_embeddings else set()
    surplus = [
        name
        for name in source.tensors
        if name not in expected and not is_harmless(name) and name not in tied_output
    ]
    if surplus:
        raise source.error(
            f"tensor {surplus[0]} of shape {source.tensors[surplus[0]].shape} has no place in the "
            f"model that the configuration describes{and_more(surplus)}: "
            "configuration and weights are of different models."
        )
    for name, shape in expected.items():
        found = source.tensors[name].shape
        if found != shape:
            raise source.error(
                f"tensor {name} should have shape {shape} by the configuration and has {found}: "
                "configuration and weights are of different models."
            )


def settle_tied(source: Source, config: ModelConfig) -> tuple[Source, ModelConfig, tuple[str, ...]]:
    """Return source and configuration with tied embeddings as the file has them; and notes.

    As in transformers 5.23, either name may hold the one matrix of a tied model, and two matrices
    that differ are not tied, whatever the configuration says.
    """
    embedding, output = source.name("tok_embeddings.weight"), source.name("output.weight")
    if not config.tied_embeddings or output not in source.tensors:
        return source, config, ()
    tensors = dict(source.tensors)
    if embedding not in tensors:
        tensors[embedding] = tensors.pop(output)
        note = f"the embeddings are tied and stored as {output}"
        return replace(source, tensors=tensors), config, (note,)
    if tensor_digest(tensors[embedding].read()) == tensor_digest(tensors[output].read()):
        return source, config, ()
    note = (
        f"the configuration ties the output to the embeddings, but {output} differs from "
        f"{embedding}; both are used, as in transformers"
    )
    return source, replace(config, tied_embeddings=False), (note,)


def and_more(names: Sequence[str]) -> str:
    """Return the number of names after the first, in words."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def choose_dtype(
    asked: Dtype, named: torch.dtype | None, stored: torch.dtype | None, device: torch.device
) -> torch.dtype:
    """Choose the dtype to compute in: the one rule of run, plan and bench.

    An explicit `asked` wins. 'auto' takes `named`, then `stored`, then bfloat16, which Mistral
    publishes. We do not compute in float64, nor in float16 on the CPU; both become float32.

    Args:
        asked: --dtype, a torch.dtype or its name.
        named: the dtype that config.json names (`ConfigFile.dtype`).
        stored: the dtype of the stored embeddings, if the weights are there.
        device: where the model runs.

    Raises:
        UsageError: `asked` is a name that is not in `DTYPES`.
    """
    if isinstance(asked, torch.dtype):
        return asked
    if asked in DTYPES:
        return DTYPES[asked]
    if asked != "auto":
        raise UsageError(f"--dtype should be auto, {', '.join(DTYPES)} and is {asked}.")
    dtype = named or stored or torch.bfloat16
    is_slow = dtype == torch.float16 and device.type == "cpu"
    return torch.float32 if dtype == torch.float64 or is_slow else dtype


def read_weights(
    source: Source, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read every tensor once; return tensors by our names, and the digest of each as stored.

    Raises:
        ResourceError: the weights do not fit in the free memory.
        CheckpointError: see `read_tensors`.
    """
    name = str(dtype).removeprefix("torch.")
    require_memory(weight_bytes(config, dtype), device, f"{source.folder.name} in {name}")
    tensors: dict[str, torch.Tensor] = {}
    digests: dict[str, str] = {}
    for ours, tensor, digest in read_tensors(source, config, dtype, device):
        tensors[ours], digests[ours] = tensor, digest
    # in the order of computation, independent of the files' order
    return {ours: tensors[ours] for ours in expected_shapes(config)}, digests


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of a model's weights in memory.

    The model copies wq, wk and wv of each layer into one joined matrix.
    """
    sizes = {ours: math.prod(shape) for ours, shape in expected_shapes(config).items()}
    joined = sum(size for ours, size in sizes.items() if ours.endswith(_JOINED))
    return (sum(sizes.values()) + joined) * dtype.itemsize


def read_tensors(
    source: Source, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Yield every tensor: our name, finite values in RoPE's half-split layout, digest as stored.

    They come in the order of the files. At most one that was not yielded is in memory.

    Raises:
        CheckpointError: a weight is NaN, infinite or too large for `dtype`.
    """
    ours_by_name = {source.name(ours): ours for ours in expected_shapes(config)}
    for name in source.tensors:
        if name in ours_by_name:
            ours = ours_by_name[name]
            tensor = read_tensor(source, config, ours)
            converted = tensor.to(device=device, dtype=dtype).contiguous()
            _check_converted(source, name, tensor, converted)
            yield ours, converted, tensor_digest(tensor)


def read_tensor(source: Source, config: ModelConfig, ours: str) -> torch.Tensor:
    """Read one tensor as stored, with the rows of wq and wk in RoPE's half-split layout."""
    tensor = source.tensors[source.name(ours)].read()
    if is_rotated(ours) and not source.is_hf:
        return half_split_from_interleaved(tensor, config.head_dim)
    return tensor


def _check_converted(
    source: Source, name: str, stored: torch.Tensor, converted: torch.Tensor
) -> None:
    """Check that a tensor is finite as it is stored and in the dtype it was converted to."""
    if not _is_finite(converted):
        check_finite(source.folder, name, stored)
        dtype = str(converted.dtype).removeprefix("torch.")
        raise source.error(
            f"tensor {name} holds values too large for {dtype}: use --dtype bfloat16 or float32."
        )


def check_finite(folder: Path | str, name: str, tensor: torch.Tensor) -> None:
    """Check that a stored tensor holds neither NaN nor infinity.

    Raises:
        CheckpointError: it does.
    """
    if not _is_finite(tensor):
        raise CheckpointError(
            f"{folder}: tensor {name} holds NaN or infinity and should be finite: the checkpoint "
            "is damaged or its training diverged; download it again or take another one."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether every value is finite, in one pass without a mask (aminmax keeps NaN)."""
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return sha256 over dtype, shape and bytes of a CPU tensor as stored, in hexadecimal."""
    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(header)
    digest.update(flat.numpy().data)
    return digest.hexdigest()


def model_fingerprint(config: ModelConfig, digests: Mapping[str, str]) -> str:
    """Return sha256 over the configuration and the tensors' digests by our names.

    Tensors are hashed rather than files, so that a model keeps its fingerprint when it is
    resharded or converted. They are hashed while they are read (1 to 2 GB/s), so nothing is cached.
    The dtype a model runs in is a setting of the run and not part of the fingerprint.
    """
    # an absent part, such as experts, is left out: a later version of ModelConfig may add others
    fields = {name: value for name, value in asdict(config).items() if value is not None}
    content = {"config": fields, "weights": dict(digests)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
