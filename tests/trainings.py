"""Checkpoints of a training that never was: tiny models of different seeds in one folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file


def save_training(folder: Path, names: Sequence[str]) -> list[Path]:
    """Write a checkpoint under each name, with the seed of its place; return their folders."""
    first, *others = [folder / name for name in names]
    save_hf(make_tiny(0), first, tokenizer_file=tiny_tokenizer_file())
    for seed, place in enumerate(others, 1):
        save_hf(make_tiny(seed), place)
        for file in first.iterdir():
            if not (place / file.name).exists():
                shutil.copyfile(file, place / file.name)
    return [first, *others]
