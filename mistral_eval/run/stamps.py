"""Stamps of files: a change of any gives a run, or a judge, another identity."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from mistral_eval.model.load.gguf_file import part_files
from mistral_eval.settings import CHAT_TEMPLATES, NAMED_PROMPTS, TINY, RunSettings

Stamp: TypeAlias = list[tuple[str, int, int]]
"""(name, size, modification time in ns) of each file."""


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a model: a folder's files, or all parts of a GGUF file."""
    return stamp_of_files(path.glob("*") if path.is_dir() else part_files(path))


def stamp_of_files(files: Iterable[Path]) -> Stamp:
    """Return the stamp of those of these paths that are files."""
    found = []
    for file in sorted(files):
        if file.is_file():
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found


def named_files(settings: RunSettings) -> list[tuple[str, str, Path]]:
    """Return the files and folders of this machine that settings name, beside those of data.

    Returns:
        Of each its name among a run's stamps, how the command line names it, and its path.
    """
    named = {"model": ("-m ", settings.model), "adapter": ("--adapter ", settings.adapter)}
    if settings.chat_template not in CHAT_TEMPLATES:
        named["chat_template"] = ("--chat-template ", settings.chat_template)
    if settings.judge_engine is not None:
        named["judge"] = ("--judge-model ", settings.judge_model)
    if settings.system_prompt not in NAMED_PROMPTS:
        named["system_prompt"] = ("--system-prompt ", settings.system_prompt)
    for name, value in sorted(settings.model_args.items()):
        named[name] = (f"--model-args {name}=", value)
    return [
        (name, f"{option}{value}", path)
        for name, (option, value) in named.items()
        if value and value != TINY and (path := Path(value).expanduser()).exists()
    ]
