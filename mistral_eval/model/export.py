"""Write a checkpoint in Hugging Face's format: `--engine hf --model tiny` needs such a folder.

transformers 5 converts a tokenizer.model only if protobuf is installed, and its AutoTokenizer then
drops the leading space and BOS, so the tokenizer is written as tokenizer.json. Source of the merge
rule: SentencePiece's BPE merges the neighbours whose piece has the best score; a tokenizer.json
lists pairs, best first.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.config_hf import NAMES
from mistral_eval.model.load.layout import hf_name
from mistral_eval.model.load.stored import HF_SINGLE
from mistral_eval.model.tokenizers.incremental import SPACE


def save_hf(checkpoint: Checkpoint, folder: Path, *, tokenizer_file: Path | None = None) -> Path:
    """Write config.json and safetensors (and a SentencePiece tokenizer) for transformers.

    Args:
        checkpoint: written in its dtype, which config.json names in `dtype`.
        folder: created if it does not exist.
        tokenizer_file: a tokenizer.model to copy, and to convert to a tokenizer.json.

    Returns:
        `folder`.

    Raises:
        CheckpointError: the windows have several sizes, which config.json cannot express, or the
            model has experts, scaled RoPE or scaled queries, which are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(checkpoint.weights.values()))
    fields = _hf_fields(checkpoint.config) | {"dtype": str(first.dtype).removeprefix("torch.")}
    text = json.dumps(fields, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {
        hf_name(name): tensor.detach().cpu().contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    save_file(tensors, folder / HF_SINGLE, metadata={"format": "pt"})
    if tokenizer_file is not None:
        save_tokenizer(tokenizer_file, folder)
    return folder


def _hf_fields(config: ModelConfig) -> dict[str, Any]:
    """Return config.json's fields: ministral if only some layers have a window, else mistral."""
    for name in ("rope_scaling", "query_scale", "experts"):
        if getattr(config, name) is not None:
            raise CheckpointError(
                f"a model to write should be a plain Mistral and has {name}: copy the folder that "
                "it was read from."
            )
    windows = {window for window in config.sliding_window if window is not None}
    if len(windows) > 1:
        raise CheckpointError(
            "config.json can hold one sliding_window for all layers, and this model has "
            f"{sorted(windows)}: use Mistral's format (params.json)."
        )
    is_mixed = bool(windows) and None in config.sliding_window
    fields = {
        theirs: getattr(config, ours) for ours, theirs in NAMES.items() if hasattr(config, ours)
    } | {
        "architectures": ["MinistralForCausalLM" if is_mixed else "MistralForCausalLM"],
        "model_type": "ministral" if is_mixed else "mistral",
        "sliding_window": max(windows, default=None),
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if is_mixed:
        kinds = {False: "sliding_attention", True: "full_attention"}
        fields["layer_types"] = [kinds[window is None] for window in config.sliding_window]
    return fields


def save_tokenizer(tokenizer_file: Path, folder: Path) -> None:
    """Write tokenizer.model, tokenizer.json and tokenizer_config.json to an existing folder.

    The file is a SentencePiece BPE model with byte pieces, such as Mistral's and Llama's.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    shutil.copyfile(tokenizer_file, folder / "tokenizer.model")
    _converted(processor).save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": processor.id_to_piece(processor.bos_id()),
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "unk_token": processor.id_to_piece(processor.unk_id()),
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **names,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _converted(processor: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """Return the same tokenizer for the tokenizers library; its post-processor adds BOS."""
    numbers = range(processor.vocab_size())
    pieces = [processor.id_to_piece(number) for number in numbers]
    unknown, bos = pieces[processor.unk_id()], pieces[processor.bos_id()]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(processor, pieces, vocabulary),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, processor.bos_id())]
    )
    special = [n for n in numbers if processor.is_control(n) or processor.is_unknown(n)]
    tokenizer.add_special_tokens(
        [AddedToken(pieces[n], special=True, normalized=False) for n in special]
    )
    return tokenizer


def _merges(
    processor: sentencepiece.SentencePieceProcessor,
    pieces: list[str],
    vocabulary: dict[str, int],
) -> list[tuple[str, str]]:
    """Return every pair of pieces that forms a third, in descending order of that piece's score."""
    is_text = [
        not (processor.is_control(n) or processor.is_unknown(n) or processor.is_byte(n))
        for n in range(len(pieces))
    ]
    texts = [number for number, text in enumerate(is_text) if text]
    best_first = sorted(texts, key=processor.get_score, reverse=True)
    parts = {pieces[number] for number in texts}
    merges: list[tuple[str, str]] = []
    for number in best_first:
        piece = pieces[number]
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(left, right) for left, right in halves if left in parts and right in parts]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges
