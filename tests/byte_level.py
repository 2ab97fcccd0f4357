"""A byte-level BPE of some 280 words that joins a line break with the spaces that follow."""

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.tokenizers.cuts import GPT2_SPLIT

SPACE, BREAK, TAB = "\u0120", "\u010a", "\u0109"  # the mapping's letters for " ", "\n" and "\t"
MERGES = (
    (BREAK, SPACE),
    (BREAK + SPACE, SPACE),
    (BREAK + SPACE * 2, SPACE),
    (BREAK, BREAK),
    (BREAK * 2, SPACE),
    (BREAK, TAB),
    (SPACE, SPACE),
    (SPACE, "x"),
    (SPACE, "r"),
    ('"', '"'),
    ('""', '"'),
    ("d", "e"),
)
END = "<end>"
WORDS = (*sorted(ByteLevel.alphabet()), *(left + right for left, right in MERGES), END)

CONFIG = ModelConfig(
    dim=32,
    n_layers=2,
    head_dim=8,
    hidden_dim=48,
    n_heads=4,
    n_kv_heads=2,
    norm_eps=1e-5,
    vocab_size=len(WORDS),
    rope_theta=10000.0,
    context_len=4096,
    sliding_window=(None, None),
)


def save_model(folder: Path) -> Path:
    """Write a model of random weights, so large that logits differ by whole units."""
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: 1 + 0.1 * torch.randn(shape, generator=generator)
        if len(shape) == 1
        else 0.3 * torch.randn(shape, generator=generator)
        for name, shape in expected_shapes(CONFIG).items()
    }
    save_hf(Checkpoint(CONFIG, weights, "random"), folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path, split: str = GPT2_SPLIT, merges=MERGES) -> Path:
    """Write a tokenizer.json of `WORDS` whose words are those of a regular expression."""
    letters = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": len(WORDS) - 1,
                "content": END,
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", **letters},
            ],
        },
        "decoder": {"type": "ByteLevel", **letters},
        "model": {
            "type": "BPE",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }  # fmt: skip
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return file
