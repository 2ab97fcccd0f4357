"""Tensors where they lie on disk: shape and dtype at once, bytes when asked for.

Sources: the safetensors format; torch.save's zip format, read with weights_only so that a pickle
cannot run code.
"""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mistral_eval.errors import CheckpointError, UnsupportedError
from mistral_eval.model.load.fields import USE_HF, read_json

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file; `read` brings it to memory (a view of the file where possible)."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


def open_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by its name there.

    Raises:
        CheckpointError: the file is truncated or no safetensors file, or holds no plain floats.
    """
    try:
        handle: Any = safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}; {file.stat().st_size} bytes): "
            "copy or download it again."
        ) from error
    found: dict[str, StoredTensor] = {}
    for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
        header = handle.get_slice(name)
        dtype = FLOATS.get(header.get_dtype())
        if dtype is None:
            raise _not_float(file, name, header.get_dtype())
        shape = tuple(header.get_shape())
        found[name] = StoredTensor(file, shape, dtype, _reader(handle, name))
    return found


def _reader(handle: Any, name: str) -> Callable[[], torch.Tensor]:
    """A function that reads one tensor through an open handle."""

    def read() -> torch.Tensor:
        tensor: torch.Tensor = handle.get_tensor(name)
        return tensor

    return read


def open_index(index: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """Every tensor a model.safetensors.index.json names, and the shards they lie in.

    Raises:
        CheckpointError: no weight_map, a shard is missing or is broken, or a tensor is not in the
            shard that should hold it.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index} has no weight_map, which says where each tensor lies: download it again."
        )
    shards = {str(name): index.parent / str(name) for name in sorted(set(weight_map.values()))}
    missing = [name for name, file in shards.items() if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {_some(missing)}, which {index.name} names: "
            "copy or download the missing shard."
        )
    found: dict[str, StoredTensor] = {}
    for file in shards.values():
        found |= open_safetensors(file)
    lost = [name for name in weight_map if name not in found]
    if lost:
        raise CheckpointError(
            f"{shards[weight_map[lost[0]]]} lacks {_some(lost)}, which {index.name} places there: "
            "shards and index are of different models; download them together."
        )
    return found, tuple(shards.values())


def open_pickle(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a torch.save file (consolidated.00.pth), mapped and not read.

    Raises:
        CheckpointError: the file is broken, holds other things than weights, or is of torch.save's
            old format that cannot be mapped.
    """
    try:
        loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} should hold tensors alone and holds something else, which is not loaded "
            "because a pickle can run programs: convert it to safetensors where you trust it."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a whole torch.save file ({_first_line(error)}; "
            f"{file.stat().st_size} bytes): copy or download it again."
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{file} should hold tensors by name and holds a {type(loaded).__name__}."
        )
    found: dict[str, StoredTensor] = {}
    for name, tensor in loaded.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOATS.values():
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise _not_float(file, str(name), kind)
        found[str(name)] = StoredTensor(file, tuple(tensor.shape), tensor.dtype, tensor.detach)
    return found


def _not_float(file: Path, name: str, kind: object) -> CheckpointError:
    """The error of a tensor that is no plain float: a quantised model, or no model."""
    return UnsupportedError(
        f"{file}: {name} should be of {', '.join(FLOATS)} and is {kind}: "
        f"quantised weights are not read by the native engine; {USE_HF}."
    )


def _first_line(error: Exception) -> str:
    """The first line of an exception's text, cut to a readable length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _some(names: Iterable[str]) -> str:
    """The first name, and how many more there are."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
