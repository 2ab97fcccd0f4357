"""A model reference -> a folder: one that is there, or a download from the Hugging Face hub.

Only what the native engine reads is fetched, its size is said and the disk is checked before. With
HF_HUB_OFFLINE, or where the hub cannot be reached, a complete copy in the cache is used.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

from mistral_eval.errors import CheckpointError, HubError, ResourceError, UsageError
from mistral_eval.model.load.checkpoint import HF_INDEX, HF_SINGLE, RAW_PICKLE, RAW_SAFETENSORS
from mistral_eval.model.load.fields import USE_HF, read_json
from mistral_eval.model.load.hub_errors import CONNECTION_ERRORS, sentence_for, unreachable
from mistral_eval.model.memory import GIB, TRY_TINY

_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKENIZER = re.compile(r"tokenizer\.model(\.v\w+)?|tekken\.json|tokenizer\.json")
_SMALL = frozenset(
    {
        *("config.json", "params.json", "adapter_config.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "added_tokens.json", "generation_config.json"),
    }
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a hub repository: its name and its size in bytes (0 where the hub is silent)."""

    name: str
    size: int


def resolve_model(
    ref: str, *, revision: str | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """The folder of a model.

    Args:
        ref: a folder, or a hub name such as mistralai/Mistral-7B-v0.1. A folder wins.
        revision: branch, tag or commit of a hub name.
        say: told what will be downloaded, before it is; writes to stderr by default.

    Raises:
        CheckpointError: neither a folder nor a hub name, or no weights this engine reads.
        HubError: the hub refuses, does not know the name, or cannot be reached.
        ResourceError: the download does not fit on the disk.
        UsageError: a revision of a folder.
    """
    folder = Path(ref).expanduser()
    if folder.exists():
        if revision is not None:
            raise UsageError(f"--revision is for names on the hub, and {ref} is a folder here.")
        return folder
    if not _HUB_NAME.fullmatch(ref):
        raise CheckpointError(
            f"{ref} should be a folder, a hub name such as mistralai/Mistral-7B-v0.1, or tiny, "
            "and there is no such folder."
        )
    if constants.HF_HUB_OFFLINE:
        return _from_cache(ref, revision, None)
    try:
        found = HfApi().model_info(ref, revision=revision, files_metadata=True)
    except CONNECTION_ERRORS as error:
        if unreachable(error):
            return _from_cache(ref, revision, error)
        raise HubError(sentence_for(error, ref, revision)) from error
    remote = [RemoteFile(f.rfilename, f.size or 0) for f in found.siblings or []]
    wanted = files_to_fetch(ref, remote)
    missing = [file for file in wanted if not _is_cached(ref, file.name, found.sha)]
    _announce(ref, missing, say or _to_stderr)
    return _download(ref, revision, wanted)


def files_to_fetch(ref: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Of a repository's files, those the native engine reads.

    Hugging Face's safetensors are taken where there are any, else Mistral's own files.

    Raises:
        CheckpointError: the repository holds no weights of either form.
    """
    top = {file.name: file for file in files if "/" not in file.name}
    if HF_SINGLE in top:
        weights = {HF_SINGLE}
    elif HF_INDEX in top:
        weights = {HF_INDEX, *(name for name in top if _SHARD.fullmatch(name))}
    elif "params.json" in top and (RAW_SAFETENSORS in top or RAW_PICKLE in top):
        weights = {RAW_SAFETENSORS if RAW_SAFETENSORS in top else RAW_PICKLE}
    elif "adapter_config.json" in top:
        weights = set()  # the loader has the sentence about LoRA folders
    else:
        kind = "pytorch_model*.bin" if any(name.endswith(".bin") for name in top) else "other forms"
        raise CheckpointError(
            f"{ref} should offer safetensors or consolidated weights and offers {kind}: {USE_HF}."
        )
    names = weights | {name for name in top if name in _SMALL or _TOKENIZER.fullmatch(name)}
    if HF_SINGLE in weights or HF_INDEX in weights:
        names.discard("params.json")
    return [top[name] for name in sorted(names)]


def small_files() -> list[str]:
    """Patterns of a repository's files that describe a model without holding weights."""
    return [*sorted(_SMALL), "tokenizer.model*", "tekken.json", "tokenizer.json"]


def _is_cached(ref: str, name: str, commit: str | None) -> bool:
    """Whether the cache holds this file of this commit."""
    return isinstance(try_to_load_from_cache(ref, name, revision=commit), str)


def _announce(ref: str, missing: list[RemoteFile], say: Callable[[str], None]) -> None:
    """Say what will come over the network, unless the disk cannot hold it."""
    if not missing:
        return
    size = sum(file.size for file in missing)
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise ResourceError(
            f"{ref} needs {size / GIB:.2f} GiB on disk and {free / GIB:.2f} GiB are free "
            f"in {cache}: free some, point HF_HOME at a larger disk, {TRY_TINY}."
        )
    say(f"downloading {ref}: {len(missing)} files, {size / GIB:.2f} GiB, into {cache}")


def _download(ref: str, revision: str | None, wanted: list[RemoteFile]) -> Path:
    """Fetch what is not in the cache; the snapshot's folder."""
    names = [file.name for file in wanted]
    try:
        # by name and not by commit, so that the cache remembers what the name stood for
        return Path(snapshot_download(ref, revision=revision, allow_patterns=names))
    except CONNECTION_ERRORS as error:
        raise HubError(sentence_for(error, ref, revision)) from error


def _from_cache(ref: str, revision: str | None, cause: Exception | None) -> Path:
    """The cached snapshot, if it holds everything; no socket is opened.

    Raises:
        HubError: nothing or not all of it is there; `cause` is why the hub was not asked.
    """
    why = "HF_HUB_OFFLINE is set" if cause is None else sentence_for(cause, ref, revision)
    try:
        found = snapshot_download(
            ref, revision=revision, local_files_only=True, allow_patterns=["config.json"]
        )
    except CONNECTION_ERRORS as error:
        if cause is not None:
            raise HubError(why) from cause
        raise HubError(
            f"{why} and the cache {constants.HF_HUB_CACHE} holds no copy of {ref}"
            f"{f' at {revision}' if revision else ''}: go online once, give a folder, {TRY_TINY}."
        ) from error
    folder = Path(found)
    lacking = _lacking(folder)
    if lacking:
        raise HubError(
            f"the cached copy of {ref} in {folder} lacks {lacking}, and the hub was not asked "
            f"({'HF_HUB_OFFLINE is set' if cause is None else type(cause).__name__}): "
            f"go online to complete it, {TRY_TINY}."
        )
    return folder


def _lacking(folder: Path) -> str | None:
    """The first file an interrupted download left out, if it did."""
    if (folder / HF_INDEX).is_file() and not (folder / HF_SINGLE).is_file():
        shards = sorted(set(read_json(folder / HF_INDEX).get("weight_map", {}).values()))
        return next((name for name in shards if not (folder / name).is_file()), None)
    weights = (HF_SINGLE, RAW_SAFETENSORS, RAW_PICKLE)
    if any((folder / name).is_file() for name in weights):
        return None
    return HF_SINGLE


def _to_stderr(text: str) -> None:
    """Talk goes to stderr: stdout is for data."""
    sys.stderr.write(text + "\n")
