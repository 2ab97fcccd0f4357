"""Open weight files: shapes and dtypes at once, values on demand.

Sources: the safetensors format; torch.save's zip format, read with weights_only because a pickle
can run code.
"""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mistral_eval.errors import CheckpointError
from mistral_eval.lfs import pointer_sentence
from mistral_eval.model.load.fields import read_json

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT_NAMES = {"float64": torch.float64, **DTYPES}
HF_SINGLE, HF_INDEX = "model.safetensors", "model.safetensors.index.json"
RAW_SAFETENSORS, RAW_PICKLE = "consolidated.safetensors", "consolidated.00.pth"
_LENGTH = 8  # bytes of a safetensors file that give its header's length
_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "tok_embeddings.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file; `read` loads it in `dtype`, into memory of its own.

    `quantised` is the name of GGUF's type where `read` dequantises, else empty. `start` is the
    file's byte where the values lie as `read` returns them; None where they do not.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    quantised: str = ""
    start: int | None = None

    @property
    def kind(self) -> str:
        """Name of the type in which the values are stored."""
        return self.quantised or str(self.dtype).removeprefix("torch.")


def open_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Open a safetensors file; return its tensors by name.

    Raises:
        CheckpointError: the file is truncated, is not safetensors, or holds other dtypes than
            plain floats.
    """
    _refuse_pointer(file)
    try:
        # numpy: for torch the whole file is mapped as memory that could be written to, which a
        # limit of a process's memory counts
        handle: Any = safe_open(str(file), framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({error}; {file.stat().st_size} bytes): "
            "copy or download it again."
        ) from error
    starts = _starts(file)
    found: dict[str, StoredTensor] = {}
    for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
        header = handle.get_slice(name)
        dtype = FLOATS.get(header.get_dtype())
        if dtype is None:
            raise _not_float(file, name, header.get_dtype())
        found[name] = stored_values(file, starts[name], dtype, tuple(header.get_shape()))
    return found


def _starts(file: Path) -> dict[str, int]:
    """Return the byte at which each tensor of a valid safetensors file begins."""
    with file.open("rb") as content:
        size = int.from_bytes(content.read(_LENGTH), "little")
        header = json.loads(content.read(size))
    header.pop("__metadata__", None)
    return {name: _LENGTH + size + entry["data_offsets"][0] for name, entry in header.items()}


def stored_values(
    file: Path, start: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> StoredTensor:
    """Return the tensor whose values lie in a file from byte `start` on."""
    read = partial(read_values, file, start, dtype, shape)
    return StoredTensor(file, shape, dtype, read, start=start)


def read_values(file: Path, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Read values from a file into memory.

    They are read and not mapped: pages of a mapped file would count as memory of this process,
    and a file that is cut off while it is mapped ends the process.

    Raises:
        CheckpointError: the file ends before the last value.
    """
    values = torch.empty(shape, dtype=dtype)
    room = values.view(-1).view(torch.uint8).numpy().data
    filled = 0
    with file.open("rb", buffering=0) as content:
        content.seek(start)
        while filled < len(room):
            count = content.readinto(room[filled:])
            if not count:
                raise CheckpointError(
                    f"{file} should have {start + len(room)} bytes or more and ends at "
                    f"{start + filled}: it was changed while it was read; start again."
                )
            filled += count
    return values


def open_hf_tensors(folder: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """Open a folder's model.safetensors, or its index and shards; return tensors and files.

    Both are empty where the folder has neither.

    Raises:
        CheckpointError: see `open_safetensors` and `open_index`.
    """
    single, index = folder / HF_SINGLE, folder / HF_INDEX
    if single.is_file():
        return open_safetensors(single), (single,)
    if index.is_file():
        tensors, shards = open_index(index)
        return tensors, (index, *shards)
    return {}, ()


def open_index(index: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """Open the shards of a model.safetensors.index.json; return tensors by name, and the shards.

    Raises:
        CheckpointError: there is no weight_map, a shard is missing or broken, no shard holds a
            tensor of the index, or two shards hold one (transformers takes the last one's, whatever
            the index says).
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index} should have a weight_map, which names each tensor's shard, and has none: "
            "download it again."
        )
    shards = {str(name): index.parent / str(name) for name in sorted(set(weight_map.values()))}
    missing = [name for name, file in shards.items() if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {_some(missing)}, which {index.name} names: "
            "copy or download the missing shard."
        )
    found: dict[str, StoredTensor] = {}
    twice: list[tuple[str, Path, Path]] = []
    for file in shards.values():
        tensors = open_safetensors(file)
        twice += [(name, found[name].file, file) for name in tensors if name in found]
        found |= tensors
    lost = [name for name in weight_map if name not in found]
    if lost:
        raise CheckpointError(
            f"{shards[weight_map[lost[0]]]} lacks {_some(lost)}, which {index.name} places there: "
            "shards and index are of different models; download them together."
        )
    if twice:
        name, first, second = twice[0]
        raise CheckpointError(
            f"{first} and {second} both hold {name}: shards of different models lie in one folder; "
            "download them again into an empty one."
        )
    return found, tuple(shards.values())


def open_pickle(file: Path, *, mapped: bool = True) -> dict[str, StoredTensor]:
    """Open a torch.save file (consolidated.00.pth); return its tensors by name.

    Args:
        file: the file.
        mapped: map it into memory. torch.save's old format can only be read whole.

    Raises:
        CheckpointError: the file is broken, holds anything but tensors, or cannot be mapped.
    """
    _refuse_pointer(file)
    try:
        loaded = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} should hold only tensors and holds other objects, which are not loaded "
            "because a pickle can run code: if you trust the file, convert it to safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a complete torch.save file ({_first_line(error)}; "
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
        read = partial(_copied, tensor)
        found[str(name)] = StoredTensor(file, tuple(tensor.shape), tensor.dtype, read)
    return found


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a view of a file, which may be replaced while the model runs."""
    return tensor.detach().clone()


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Return the dtype in which a model folder stores its embeddings; None without weights there.

    Only headers are read. Hugging Face's files come first, as in `load_checkpoint`.
    """
    for file in (
        *sorted(folder.glob("model*.safetensors")),
        *(folder / RAW_SAFETENSORS, folder / RAW_PICKLE),
    ):
        if file.is_file():
            tensors = open_pickle(file) if file.suffix == ".pth" else open_safetensors(file)
            for name in _EMBEDDINGS:
                if name in tensors:
                    return tensors[name].dtype
    return None


def _refuse_pointer(file: Path) -> None:
    """Raise if the file is a Git LFS pointer."""
    if sentence := pointer_sentence(file):
        raise CheckpointError(sentence)


def _not_float(file: Path, name: str, kind: object) -> CheckpointError:
    """Return the error for a tensor that is not a plain float.

    Quantised models say how they are read in config.json's quantization_config; those are refused
    before their tensors are opened.
    """
    return CheckpointError(
        f"{file}: {name} should have dtype {', '.join(FLOATS)} and has {kind}, and nothing says "
        "how to read it (config.json has no quantization_config): take the whole folder of the "
        "quantised model, or the model before it was quantised."
    )


def _first_line(error: Exception) -> str:
    """Return the first line of an exception's text, at most 120 characters of it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _some(names: Iterable[str]) -> str:
    """Return the first name and the number of others."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
