"""Read a model's weights a layer at a time, for one that does not fit in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.weights import Source, read_tensor, read_tensors, weight_bytes
from mistral_eval.model.memory import fits, require_memory, sent


@dataclass(frozen=True, slots=True)
class LayerReader:
    """Reads a layer's tensors from the files, as often as it is asked.

    Attributes:
        stamps: what tells that a file is still the one whose tensors were checked.
    """

    source: Source
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    stamps: Mapping[Path, tuple[int, ...]]

    def tensors_of(self, layer: int) -> dict[str, torch.Tensor]:
        """Return a layer's tensors by our names: the values that `load_checkpoint` returns.

        Raises:
            CheckpointError: a file was changed since the first pass.
        """
        names = [name for name in expected_shapes(self.config) if layer_of(name) == layer]
        files = {self.source.tensors[self.source.name(name)].file for name in names}
        for file in files:
            if _stamp(file) != self.stamps[file]:
                raise self.source.error(
                    f"{file.name} should stay as it is while its layers are read and was changed: "
                    "run the same command again."
                )
        return {name: self._read(name) for name in names}

    def _read(self, name: str) -> torch.Tensor:
        tensor = read_tensor(self.source, self.config, name)
        if self.device.type == "cpu":
            return tensor.to(self.dtype).contiguous()
        # the device converts: its memory is faster
        return sent(tensor.contiguous(), self.device).to(self.dtype)


def read_streamed(
    source: Source, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, torch.Tensor], LayerReader, dict[str, str]]:
    """Read and check every tensor once, and keep those that belong to no layer.

    Returns:
        Embeddings, last norm and output by our names; the reader of the layers; and the digest of
        every tensor as stored.

    Raises:
        ResourceError: not even two layers fit in the free memory.
        CheckpointError: a weight is NaN, infinite or too large for `dtype`.
    """
    name = str(dtype).removeprefix("torch.")
    what = f"{source.folder.name} in {name}, read a layer at a time,"
    require_memory(streamed_bytes(config, dtype), device, what)
    stamps = {tensor.file: _stamp(tensor.file) for tensor in source.tensors.values()}
    kept: dict[str, torch.Tensor] = {}
    digests: dict[str, str] = {}
    for ours, tensor, digest in read_tensors(source, config, dtype, device):
        digests[ours] = digest
        if layer_of(ours) is None:
            kept[ours] = tensor
    return kept, LayerReader(source, config, dtype, device, stamps), digests


def is_streamed(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, *, asked: bool | None
) -> bool:
    """Return whether to stream layers: as asked, or with None if the weights do not fit."""
    if asked is None:
        return not fits(weight_bytes(config, dtype), device)
    return asked


def streamed_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of weights in memory at once: two layers, and what belongs to none."""
    layer = layer_bytes(config, dtype)
    return weight_bytes(config, dtype) - (config.n_layers - min(2, config.n_layers)) * layer


def layer_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one layer's weights in memory, with the joined matrix."""
    double = replace(config, n_layers=2 * config.n_layers, sliding_window=2 * config.sliding_window)
    more = weight_bytes(double, dtype) - weight_bytes(config, dtype)
    return more // config.n_layers


def layer_of(name: str) -> int | None:
    """Return the layer of the tensor we call `name`; None if it belongs to none."""
    first, number = name.split(".")[:2]
    return int(number) if first == "layers" else None


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what tells a file from a changed one: its number, size and time of change."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
