"""Bring the names of Hugging Face's tensors into one form: that of a causal language model.

A model with images (mistral3) keeps its text part under a prefix, which depends on the version of
transformers that saved it. Experts are separate matrices in Mixtral's published files and fused
ones in transformers' memory. Source: transformers' conversion_mapping.py, `llava` and `mixtral`.
"""

import re
from collections.abc import Iterator, Mapping

import torch

from mistral_eval.model.load.stored import StoredTensor, stored_values

# The longer prefix first: each is what stands before "layers.", and before "lm_head.".
_TEXT_PREFIXES = (
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
)
_OF_IMAGES = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
_EXPERTS_IN_MEMORY = re.compile(r"(model\.layers\.\d+)\.mlp\.(gate\.|experts\.)(.*)")


def text_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the text part's tensors by the names of MistralForCausalLM or MixtralForCausalLM.

    Tensors of images are left out, and fused experts are cut into views of each expert's matrices.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if not _OF_IMAGES.match(name):
            found.update(_experts(_without_prefix(name), tensor))
    return found


def _without_prefix(name: str) -> str:
    for body, head in _TEXT_PREFIXES:
        if name.startswith(body):
            return "model." + name.removeprefix(body)
        if head and name.startswith(f"{head}lm_head."):
            return name.removeprefix(head)
    return name


def _experts(name: str, tensor: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a tensor, or each expert's share of a fused one, with its name in a file."""
    match = _EXPERTS_IN_MEMORY.fullmatch(name)
    if match is None:
        yield name, tensor
        return
    layer, group, part = match.groups()
    prefix = f"{layer}.block_sparse_moe.{group}"
    if part == "gate_up_proj" and len(tensor.shape) == 3:
        count, both, dim = tensor.shape
        for n in range(count):
            yield f"{prefix}{n}.w1.weight", _share(tensor, n, slice(0, both // 2), dim)
            yield f"{prefix}{n}.w3.weight", _share(tensor, n, slice(both // 2, both), dim)
    elif part == "down_proj" and len(tensor.shape) == 3:
        count, dim, hidden_dim = tensor.shape
        for n in range(count):
            yield f"{prefix}{n}.w2.weight", _share(tensor, n, slice(0, dim), hidden_dim)
    else:
        yield f"{prefix}{part}", tensor


def _share(tensor: StoredTensor, expert: int, rows: slice, width: int) -> StoredTensor:
    """Return some rows of one expert's matrix in a fused tensor, (experts, rows, width)."""
    shape = (rows.stop - rows.start, width)
    if tensor.start is not None:
        before = (expert * tensor.shape[1] + rows.start) * width
        start = tensor.start + before * tensor.dtype.itemsize
        return stored_values(tensor.file, start, tensor.dtype, shape)

    def read() -> torch.Tensor:
        return tensor.read()[expert, rows]

    return StoredTensor(tensor.file, shape, tensor.dtype, read)
