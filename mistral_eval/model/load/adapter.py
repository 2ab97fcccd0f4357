"""LoRA adapters: find the base model, merge with peft, and hand over the merged tensors.

Merging needs memory for the base model twice, in the dtype of the computation: once in transformers
and once as our weights. Sources: peft's PeftModel and `merge_and_unload`; adapter_config.json.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistral_eval.errors import CheckpointError, HubError, UnsupportedError, UsageError
from mistral_eval.model.load.fields import USE_HF, read_json
from mistral_eval.model.load.hf_names import text_tensors
from mistral_eval.model.load.hub import ADAPTER_CONFIG, check_adapter_reference, resolve_model
from mistral_eval.model.load.stored import StoredTensor, open_pickle, open_safetensors
from mistral_eval.model.load.weights import Source
from mistral_eval.model.memory import require_memory

_OF_PEFT = "base_model.model."  # what peft's names have before transformers' names
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # peft reads the first that exists
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json")


@dataclass(frozen=True, slots=True)
class ModelParts:
    """The folders that a model is made of.

    Attributes:
        base: holds configuration and weights of a whole model.
        adapter: holds a LoRA adapter of it, or None.
    """

    base: Path
    adapter: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer: the adapter's if it has one, as in transformers."""
        if self.adapter and any((self.adapter / name).is_file() for name in _TOKENIZERS):
            return self.adapter
        return self.base

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the adapter names another base model than the one it is put on."""
        named = "" if self.adapter is None else base_name(self.adapter)
        if not named or Path(named).name == self.base.name or "snapshots" in self.base.parts:
            return ()
        assert self.adapter is not None
        return (f"the adapter {self.adapter.name} names {named} as its base model",)


# What transformers and peft raise for files that do not fit each other; NotImplementedError is one.
_NO_FIT = (RuntimeError, ValueError, TypeError, KeyError, OSError)
Resolve = Callable[..., Path]


def resolve_parts(
    ref: str,
    adapter: str | None = None,
    *,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
    resolve: Resolve = resolve_model,
) -> ModelParts:
    """Return the folders of a model, and of its adapter if `ref` is one or `adapter` names one.

    Args:
        ref: the value of `--model`, a whole model or a LoRA adapter.
        adapter: the value of `--adapter`.
        revision: branch, tag or commit of `ref` on the hub.
        say: see `resolve_model`.
        resolve: what finds or downloads a folder.

    Raises:
        CheckpointError: a folder is missing, or holds something else.
        UsageError: `ref` is an adapter too.
        HubError, ResourceError: see `resolve_model`.
    """
    if adapter is not None:
        check_adapter_reference(adapter)  # before a model is fetched for it
    folder = resolve(ref, revision=revision, say=say)
    if adapter is not None:
        if is_adapter(folder):
            raise UsageError(
                f"--adapter {adapter} needs a whole model, and --model {ref} is an adapter too: "
                "give its base model as --model."
            )
        put_on = resolve(adapter, revision=None, say=say)
        if not is_adapter(put_on):
            raise CheckpointError(
                f"--adapter {adapter} should be a folder with {ADAPTER_CONFIG}, as peft saves it, "
                "and has no such file: check the path."
            )
        return ModelParts(folder, put_on)
    if not is_adapter(folder):
        return ModelParts(folder)
    name = base_name(folder)
    if not name:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG} should name the base model in base_model_name_or_path and "
            f"does not: give it as `--model BASE --adapter {ref}`."
        )
    try:
        base = resolve(name, revision=read_json(folder / ADAPTER_CONFIG).get("revision"), say=say)
    except (CheckpointError, HubError) as error:
        raise type(error)(
            f"{ref} is a LoRA adapter of {name}, which was not found ({error}) Give the base model "
            f"as `--model BASE --adapter {ref}`."
        ) from error
    return ModelParts(base, folder)


def is_adapter(folder: Path) -> bool:
    """Return whether the folder holds an adapter; transformers then ignores a whole model in it."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_name(adapter: Path) -> str:
    """Return the base model that an adapter names: a hub name or a path; empty if none."""
    return str(read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


def check_adapter_files(adapter: Path) -> None:
    """Check that an adapter's weights are there and whole, which peft's errors do not say.

    Raises:
        CheckpointError: there is no file of weights, or it is a Git LFS pointer or broken.
    """
    found = [adapter / name for name in _WEIGHTS if (adapter / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{adapter} should hold {' or '.join(_WEIGHTS)} beside {ADAPTER_CONFIG} and holds "
            "neither: copy or download the adapter again."
        )
    if found[0].suffix == ".safetensors":
        open_safetensors(found[0])
    else:
        open_pickle(found[0], mapped=False)


def merged(source: Source, adapter: Path, dtype: torch.dtype) -> Source:
    """Return the tensors of a base model with an adapter merged into them, in `dtype`.

    peft adds the product of the adapter's matrices in float32 and rounds once.

    Args:
        source: the base model, whose tensors fit its configuration.
        adapter: the adapter's folder.
        dtype: the dtype in which the base model is loaded.

    Raises:
        CheckpointError: the adapter does not fit the base model, lacks tensors, or its file is
            broken.
        UnsupportedError: the adapter is no LoRA adapter, or peft cannot merge it.
        ResourceError: the base model does not fit in the free memory.
    """
    _check_kind(adapter)
    if not source.is_hf:
        raise CheckpointError(  # the hf engine cannot either
            f"{source.folder} should be in Hugging Face's format (config.json) to merge the "
            f"adapter {adapter.name} into it, and is in another: take that folder of the model."
        )
    values = sum(torch.Size(tensor.shape).numel() for tensor in source.tensors.values())
    needed = values * dtype.itemsize
    require_memory(needed, torch.device("cpu"), f"merging {adapter.name} into {source.folder.name}")
    tensors = _merge(source.folder, adapter, dtype)
    stored = {
        name: StoredTensor(adapter, tuple(tensor.shape), tensor.dtype, tensor.detach)
        for name, tensor in tensors.items()
    }
    return replace(source, tensors=text_tensors(stored))


def _check_kind(adapter: Path) -> None:
    kind = read_json(adapter / ADAPTER_CONFIG).get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            f"{adapter / ADAPTER_CONFIG}: peft_type should be LORA for the native engine and is "
            f"{kind!r}: {USE_HF}."
        )


def _merge(base: Path, adapter: Path, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """Load the base model into transformers, merge, and return its state."""
    from peft import PeftModel
    from peft.utils.save_and_load import get_peft_model_state_dict, load_peft_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    check_adapter_files(adapter)
    config = AutoConfig.from_pretrained(base)
    has_images = config.get_text_config() is not config
    kind: Any = AutoModelForImageTextToText if has_images else AutoModelForCausalLM
    try:
        saved = load_peft_weights(str(adapter), device="cpu")
        model = kind.from_pretrained(base, dtype=dtype, local_files_only=True)
        with warnings.catch_warnings():
            # peft asks transformers for an attribute that is to be renamed
            warnings.simplefilter("ignore", FutureWarning)
            tuned = PeftModel.from_pretrained(model, str(adapter))
    except _NO_FIT as error:
        reason = " ".join(str(error).split())[:300]  # several lines: the second says which tensor
        raise CheckpointError(
            f"the adapter {adapter} should fit the base model {base}, and peft cannot load it "
            f"({reason}): give the model that it was trained on as --model, and it as --adapter."
        ) from error
    # peft only warns of tensors that it does not find or does not use
    wanted = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    _check_names(adapter, set(saved), set(wanted), set(tuned.get_base_model().state_dict()))
    try:
        state: Mapping[str, Tensor] = tuned.merge_and_unload().state_dict()
    except _NO_FIT as error:
        raise UnsupportedError(
            f"the adapter {adapter} should merge into the base model for the native engine, and "
            f"peft cannot merge it ({error}): {USE_HF}."
        ) from error
    return state


def _check_names(adapter: Path, saved: set[str], wanted: set[str], base: set[str]) -> None:
    """Raise if the file lacks a tensor of the adapter, or has one without a place."""
    missing = sorted(wanted - saved)
    surplus = sorted(name for name in saved - wanted if name.removeprefix(_OF_PEFT) not in base)
    for names, what in ((missing, "is missing"), (surplus, "has no place in the model")):
        if names:
            raise CheckpointError(
                f"{adapter}: tensor {names[0]} {what} (one of {len(names)}): adapter and base "
                "model do not fit; give the model that it was trained on, or copy it again."
            )
