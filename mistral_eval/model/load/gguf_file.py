"""Read GGUF files: metadata and tensor headers at once, values on demand, split files as one.

Source: ggml's docs/gguf.md (versions 2 and 3). The gguf package names the types and dequantises
them. Its GGUFReader is not used: it makes several objects of each token and merge, and takes 30
times as long as this module for a vocabulary of 49152 tokens.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from mistral_eval.errors import CheckpointError
from mistral_eval.model.load.stored import (
    HF_INDEX,
    HF_SINGLE,
    RAW_PICKLE,
    RAW_SAFETENSORS,
    StoredTensor,
    read_values,
    stored_values,
)

SUFFIX: Final = ".gguf"
_MAGIC: Final = b"GGUF"
_POINTER: Final = b"version https://git-lfs"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32  # where general.alignment is absent
_SPLIT: Final = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE
)
_PROJECTOR: Final = "mmproj"  # the vision part of a model, in a file of its own
_PLAIN: Final = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_SCALARS: Final = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A model in GGUF format; `files` are its parts in order, with the first part's metadata."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that `path` stands for, the first of a split one; else None.

    A path stands for a GGUF file if it is one, or a folder whose only weights are one (vision
    projectors, mmproj*.gguf, do not count).

    Raises:
        CheckpointError: the folder holds several models in GGUF format and no other weights.
    """
    if path.is_file():
        return path if is_gguf(path) else None
    models = gguf_models(path)
    if len(models) > 1:
        names = ", ".join(file.name for file in models)
        raise CheckpointError(
            f"{path} should hold one model and holds {len(models)} in GGUF format ({names}): "
            "give the path of one of these files."
        )
    return models[0] if models else None


def is_gguf(file: Path) -> bool:
    """Return whether a file is one in GGUF format, by its name's ending or its first bytes."""
    if file.suffix.lower() == SUFFIX:
        return True
    try:
        with file.open("rb") as content:
            return content.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def gguf_models(folder: Path) -> list[Path]:
    """Return the models in GGUF format of a folder without other weights, by name.

    Of a split model the first part that is there stands for all.
    """
    others = (HF_SINGLE, HF_INDEX, RAW_SAFETENSORS, RAW_PICKLE)
    if not folder.is_dir() or any((folder / name).is_file() for name in others):
        return []
    found = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() == SUFFIX and not file.name.startswith(_PROJECTOR)
    ]
    models = {
        file if (split := _SPLIT.fullmatch(file.name)) is None else split["stem"]: file
        for file in reversed(found)
    }
    return sorted(models.values())


def part_files(file: Path) -> tuple[Path, ...]:
    """Return the files of the model that `file` belongs to, by their names: all parts of a split.

    Raises:
        CheckpointError: a part is missing.
    """
    split = _SPLIT.fullmatch(file.name)
    if split is None:
        return (file,)
    stem, count = split["stem"], int(split["count"])
    parts = [
        file.with_name(f"{stem}-{n:05d}-of-{count:05d}{file.suffix}") for n in range(1, count + 1)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{file.parent} lacks {missing[0]}{more}: {file.name} is one of {count} parts; "
            "copy or download the missing ones."
        )
    return tuple(parts)


def read_metadata(file: Path) -> Mapping[str, Any]:
    """Return a model's metadata by key; see `read_gguf` for the errors."""
    return _Header(part_files(file)[0]).metadata


def read_gguf(file: Path) -> GGUFFile:
    """Read metadata and tensor headers of a model, given any of its files.

    Raises:
        CheckpointError: a file is no GGUF file, is cut off, damaged, big-endian or of an unknown
            version; a part is missing or of another model; a tensor has a type that the gguf
            package cannot dequantise.
    """
    files = part_files(file)
    headers = [_Header(part) for part in files]
    metadata = headers[0].metadata
    count = metadata.get("split.count", 1) or 1
    numbers = [header.metadata.get("split.no", 0) for header in headers]
    if count != len(files) or numbers != list(range(len(files))):
        raise CheckpointError(
            f"{file} should be one of {count} parts named NAME-00001-of-{count:05d}{SUFFIX} in "
            f"their order, and {len(files)} with the numbers {numbers} are there: "
            "download all parts of one model under their own names."
        )
    tensors: dict[str, StoredTensor] = {}
    for header in headers:
        tensors |= header.tensors()
    total = sum(header.n_tensors for header in headers)
    if len(tensors) != metadata.get("split.tensors.count", total) or len(tensors) != total:
        raise CheckpointError(
            f"{file.parent}: the parts of {files[0].name} should hold "
            f"{metadata.get('split.tensors.count', total)} tensors together and hold "
            f"{len(tensors)}: they are of different models; download all of one."
        )
    return GGUFFile(files, metadata, tensors)


class _Header:
    """The header of one file, mapped into memory; every read is checked against its size."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._size = file.stat().st_size
        start = _first_bytes(file)
        if start.startswith(_POINTER):
            raise CheckpointError(
                f"{file} is a Git LFS pointer and not the model itself: "
                "fetch it with `git lfs pull` in its folder."
            )
        if not start.startswith(_MAGIC):
            raise CheckpointError(
                f"{file} should begin with GGUF and begins with {start[:4]!r} ({self._size} "
                "bytes): copy or download the file again."
            )
        self._map: Any = np.memmap(file, dtype=np.uint8, mode="r")
        self._at = len(_MAGIC)
        version = self._scalar(GGUFValueType.UINT32)
        if version not in _VERSIONS:
            is_big = version & 0xFFFF == 0 and version
            kind = "is big-endian" if is_big else f"has version {version}"
            raise CheckpointError(
                f"{file} should be a little-endian GGUF file of version 2 or 3 and {kind}: "
                "convert the model again with a current llama.cpp."
            )
        self.n_tensors: int = self._scalar(GGUFValueType.UINT64)
        n_fields = self._scalar(GGUFValueType.UINT64)
        self.metadata: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self._string()
            self.metadata[key] = self._value(self._type())
        self._tensors_at = self._at

    def tensors(self) -> dict[str, StoredTensor]:
        """Return the tensors by name, after checking that the file holds all their bytes."""
        self._at = self._tensors_at
        found = [self._tensor() for _ in range(self.n_tensors)]
        alignment = self.metadata.get("general.alignment", _ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        return {
            name: self._stored(name, kind, shape, start + at) for name, kind, shape, at in found
        }

    def _tensor(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        """Return name, type, shape (rows first, as torch has it) and offset of the next tensor."""
        name = self._string()
        n_dims = self._scalar(GGUFValueType.UINT32)
        shape = tuple(reversed([self._scalar(GGUFValueType.UINT64) for _ in range(n_dims)]))
        number = self._scalar(GGUFValueType.UINT32)
        if number not in _KNOWN_TYPES:
            raise self._unsupported(name, f"number {number}")
        return name, GGMLQuantizationType(number), shape, self._scalar(GGUFValueType.UINT64)

    def _stored(
        self, name: str, kind: GGMLQuantizationType, shape: tuple[int, ...], at: int
    ) -> StoredTensor:
        if not _is_readable(kind):
            raise self._unsupported(name, kind.name)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        row = shape[-1] if shape else 0
        if not row or row % per_block:
            raise CheckpointError(
                f"{self.file}: {name} of type {kind.name} should have rows of a multiple of "
                f"{per_block} values and has the shape {shape}: download the file again."
            )
        size = prod(shape) // per_block * block_bytes
        if at + size > self._size:
            raise self._cut_off(f"{name} ends at byte {at + size}")
        if kind in _PLAIN:
            return stored_values(self.file, at, _PLAIN[kind], shape)
        read = partial(_dequantised, self.file, at, size, kind, shape)
        return StoredTensor(self.file, shape, torch.float32, read, quantised=kind.name)

    def _type(self) -> GGUFValueType:
        number = self._scalar(GGUFValueType.UINT32)
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise CheckpointError(
                f"{self.file}: a metadata value has the unknown type {number} at byte {self._at}: "
                "the file is damaged; copy or download it again."
            ) from error

    def _value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind != GGUFValueType.ARRAY:
            return self._scalar(kind)
        inner, count = self._type(), self._scalar(GGUFValueType.UINT64)
        if inner in _SCALARS:
            return self._scalars(inner, count).tolist()
        # an element has at least its length of eight bytes: a damaged count fails here
        self._require(8 * count)
        if inner == GGUFValueType.STRING:
            return self._strings(count)
        return [self._value(inner) for _ in range(count)]

    def _scalar(self, kind: GGUFValueType) -> Any:
        value = self._scalars(kind, 1)[0]
        # the shortest decimal number: 1e-05, not 9.999999747378752e-06
        return float(str(value)) if kind == GGUFValueType.FLOAT32 else value.item()

    def _scalars(self, kind: GGUFValueType, count: int) -> Any:
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._bytes(dtype.itemsize * count), dtype)

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        """Read strings in one loop: a vocabulary and its merges can be 400000 of them."""
        found, view, length_at = [], memoryview(self._map), struct.Struct("<Q").unpack_from
        for _ in range(count):
            self._require(8)
            (length,) = length_at(view, self._at)
            self._at += 8
            self._require(length)
            start, self._at = self._at, self._at + length
            found.append(str(view[start : self._at], "utf-8", "replace"))
        return found

    def _bytes(self, count: int) -> bytes:
        self._require(count)
        start, self._at = self._at, self._at + count
        found: bytes = self._map[start : self._at].tobytes()
        return found

    def _require(self, count: int) -> None:
        if self._at + count > self._size:
            raise self._cut_off(f"its header goes on after byte {self._at}")

    def _cut_off(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file} is cut off or damaged: it has {self._size} bytes, and {why}: "
            "copy or download it again."
        )

    def _unsupported(self, name: str, kind: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {name} has the type {kind}, which the gguf package cannot dequantise: "
            "take the model in another quantisation, or upgrade gguf."
        )


_KNOWN_TYPES: Final = frozenset(kind.value for kind in GGMLQuantizationType)


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as content:
        return content.read(len(_POINTER))


def _is_readable(kind: GGMLQuantizationType) -> bool:
    """Return whether the gguf package dequantises a type: only trying tells."""
    if kind in _PLAIN:
        return True
    _, block_bytes = GGML_QUANT_SIZES[kind]
    try:
        dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _dequantised(
    file: Path, at: int, size: int, kind: GGMLQuantizationType, shape: Sequence[int]
) -> torch.Tensor:
    """Return a quantised tensor's values in float32."""
    rows = read_values(file, at, torch.uint8, (size,)).numpy().reshape(prod(shape[:-1]), -1)
    return torch.from_numpy(dequantize(rows, kind)).reshape(shape)
