"""Stored tensors -> the weights of a model: every one checked, none held twice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mistral_eval.errors import CheckpointError, UsageError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint_digest import tensor_digest
from mistral_eval.model.load.layout import (
    expected_shapes,
    half_split_from_interleaved,
    hf_name,
    is_harmless,
    is_rotated,
)
from mistral_eval.model.load.stored import StoredTensor
from mistral_eval.model.memory import require_memory

Dtype = torch.dtype | str
_JOINED = (".attention.wq.weight", ".attention.wk.weight", ".attention.wv.weight")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Source:
    """The stored tensors of one checkpoint by the names of its format."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    is_hf: bool

    def name(self, ours: str) -> str:
        """What this format calls the tensor we call `ours`."""
        return hf_name(ours) if self.is_hf else ours

    def error(self, sentence: str) -> CheckpointError:
        """A CheckpointError that opens with the folder."""
        return CheckpointError(f"{self.folder}: {sentence}")


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by our names, in RoPE's half-split layout, and the digest of each as stored."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def check_tensors(source: Source, config: ModelConfig) -> None:
    """Compare names and shapes with what the configuration asks for, before anything is read.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
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
            f"{_and_more(missing)}: {hint}."
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
            f"model that the configuration describes{_and_more(surplus)}: "
            "configuration and weights are of different models."
        )
    for name, shape in expected.items():
        found = source.tensors[name].shape
        if found != shape:
            raise source.error(
                f"tensor {name} should have shape {shape} by the configuration and has {found}: "
                "configuration and weights are of different models."
            )


def _and_more(names: list[str]) -> str:
    """How many names beyond the first there are."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def choose_dtype(
    dtype: Dtype, source: Source, device: torch.device
) -> tuple[torch.dtype, tuple[str, ...]]:
    """The dtype to run in, and notes about how it differs from the stored one.

    'auto' is the dtype the embeddings are stored in; but float16 becomes float32 on the CPU, which
    has no arithmetic of its own for it, and float64 becomes float32 everywhere.

    Raises:
        UsageError: a name that is no dtype the engine runs in.
    """
    if isinstance(dtype, torch.dtype):
        chosen = dtype
    elif dtype == "auto":
        stored = source.tensors[source.name("tok_embeddings.weight")].dtype
        widen = stored == torch.float64 or (stored == torch.float16 and device.type == "cpu")
        chosen = torch.float32 if widen else stored
    elif dtype in DTYPES:
        chosen = DTYPES[dtype]
    else:
        raise UsageError(f"--dtype should be auto, {', '.join(DTYPES)} and is {dtype}.")
    kinds = sorted({str(tensor.dtype) for tensor in source.tensors.values()})
    if kinds == [str(chosen)]:
        return chosen, ()
    found = ", ".join(kinds).replace("torch.", "")
    return chosen, (f"weights stored as {found}, run in {str(chosen).removeprefix('torch.')}",)


def read_weights(
    source: Source, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> Weights:
    """Read every tensor once, in the order of the files.

    Besides the result at most one tensor is in memory at a time; file pages are the kernel's and
    can be dropped by it.

    Raises:
        ResourceError: the weights do not fit in the memory that is free.
        CheckpointError: a weight is NaN or infinite, or is too large for `dtype`; or tied
            embeddings come with an output matrix of its own.
    """
    shapes = expected_shapes(config)
    sizes = {ours: torch.Size(shape).numel() for ours, shape in shapes.items()}
    # the model joins wq, wk and wv of each layer in a copy of its own
    joined = sum(size for ours, size in sizes.items() if ours.endswith(_JOINED))
    count = sum(sizes.values()) + joined
    name = str(dtype).removeprefix("torch.")
    require_memory(count * dtype.itemsize, device, f"{source.folder.name} in {name}")
    ours_by_name = {source.name(ours): ours for ours in shapes}
    weights = Weights()
    for name, stored in source.tensors.items():
        if name in ours_by_name:
            ours = ours_by_name[name]
            tensor = stored.read()
            if is_rotated(ours) and not source.is_hf:
                tensor = half_split_from_interleaved(tensor, config.head_dim)
            weights.digests[ours] = tensor_digest(tensor)
            weights.tensors[ours] = _converted(source, name, tensor, dtype, device)
    _check_tied(source, config, weights.digests["tok_embeddings.weight"])
    # the order of computation, whatever the files' order was
    return Weights({ours: weights.tensors[ours] for ours in shapes}, weights.digests)


def _converted(
    source: Source, name: str, tensor: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A copy in `dtype` on `device`, all of it finite."""
    # copied even where nothing changes: the file may be replaced while the model runs
    converted = tensor.to(device=device, dtype=dtype, copy=True).contiguous()
    if not _is_finite(converted):
        if _is_finite(tensor):
            raise source.error(
                f"tensor {name} holds values too large for {str(dtype).removeprefix('torch.')}: "
                "run in bfloat16 or float32 (--dtype)."
            )
        raise source.error(
            f"tensor {name} holds NaN or infinity, so no result would mean anything: "
            "the checkpoint is damaged or its training diverged."
        )
    return converted


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every value is finite; one pass, no mask in memory (aminmax hands NaN through)."""
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def _check_tied(source: Source, config: ModelConfig, embedding_digest: str) -> None:
    """A file that says tied and brings another output matrix contradicts itself."""
    output = source.tensors.get(source.name("output.weight"))
    if config.tied_embeddings and output and tensor_digest(output.read()) != embedding_digest:
        option = "tie_word_embeddings" if source.is_hf else "tied_embeddings"
        raise source.error(
            "the configuration ties the output to the embeddings, and "
            f"{source.name('output.weight')} differs from them: "
            f"say `--model-args {option}=false` to use it."
        )
