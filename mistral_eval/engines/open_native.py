"""A model reference to a native backend: find the files, read them, build the engine."""

from collections.abc import Callable
from dataclasses import replace

import torch

from mistral_eval.engines.native import NativeBackend
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.model.load.checkpoint import Checkpoint, load_checkpoint
from mistral_eval.model.load.hub import resolve_model
from mistral_eval.model.load.weights import choose_dtype
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.native.runner import ModelRunner

TINY = "tiny"


def open_native(
    pretrained: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    **model_args: str,
) -> NativeBackend:
    """Load a checkpoint and its tokenizer into the native engine.

    Args:
        pretrained: a hub id, a folder, or `tiny`.
        revision: branch, tag or commit of a hub id.
        dtype: `auto` (as stored), float32, bfloat16 or float16.
        device: `auto` (cuda where there is one), or torch's name for it.
        batch_tokens: tokens computed at once; None chooses by device.
        seed: names the draws of sampled replies.
        say: told what will be downloaded; None writes to stderr.
        model_args: what the checkpoint's files leave open, e.g. rope_theta.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError: it cannot be loaded.
    """
    where = choose_device(device)
    if pretrained == TINY:
        if model_args:
            raise UsageError("--model tiny takes no --model-args: nothing about it is open.")
        checkpoint, file = tiny_model(dtype, where), tiny_tokenizer_file()
    else:
        file = resolve_model(pretrained, revision=revision, say=say)
        checkpoint = load_checkpoint(
            file,
            dtype=dtype,
            device=where,
            overrides=model_args,
        )
    tokenizer = load_tokenizer(file, expected_vocab=checkpoint.config.vocab_size)
    notes = checkpoint.notes
    if tokenizer.n_words < checkpoint.config.vocab_size:
        surplus = checkpoint.config.vocab_size - tokenizer.n_words
        notes = (*notes, f"{surplus} embedding rows without a token, never predicted")
    weight = checkpoint.weights["tok_embeddings.weight"]
    engine = ModelRunner(
        checkpoint.config,
        checkpoint.weights,
        n_words=tokenizer.n_words,
        eos_id=tokenizer.eos_id,
        batch_tokens=batch_tokens,
    )
    return NativeBackend(
        engine,
        tokenizer,
        checkpoint.config.context_len,
        f"{checkpoint.fingerprint} {tokenizer.fingerprint} {weight.dtype} {where.type}",
        seed,
        notes=notes,
        info={
            "model_num_parameters": sum(w.numel() for w in checkpoint.weights.values()),
            "model_dtype": str(weight.dtype),
            "model_revision": revision or "",
            "max_length": checkpoint.config.context_len,
        },
    )


def tiny_model(dtype: str, device: torch.device) -> Checkpoint:
    """The tiny model where and as it is wanted; `auto` is float32, as it is made."""
    made = make_tiny()
    kind = choose_dtype(dtype, torch.float32, None, device)
    return replace(made, weights={name: w.to(device, kind) for name, w in made.weights.items()})


def choose_device(name: str) -> torch.device:
    """The device to run on; `auto` is cuda where there is one.

    Raises:
        EngineError: torch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise EngineError(
            f"--device {name} cannot be used here ({first}). Give cpu, or auto."
        ) from error
    return device
