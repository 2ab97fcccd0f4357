"""Resolve a model reference to a folder, downloading from the Hugging Face hub if needed.

Only files the native engine reads are fetched; before that their size is announced and compared
with the free disk space. With HF_HUB_OFFLINE, or if the hub cannot be reached, a complete copy in
the cache is used.
"""

import errno
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard

from huggingface_hub import HfApi, constants, errors, snapshot_download, try_to_load_from_cache

from mistral_eval.errors import (
    CheckpointError,
    HubError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from mistral_eval.model.load.fields import USE_HF, read_json
from mistral_eval.model.load.gguf_file import SUFFIX
from mistral_eval.model.load.stored import HF_INDEX, HF_SINGLE, RAW_PICKLE, RAW_SAFETENSORS
from mistral_eval.model.memory import GIB, TRY_TINY
from mistral_eval.settings import TINY

Reader: TypeAlias = Literal["native", "transformers"]
BIN_SINGLE = "pytorch_model.bin"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKENIZER = re.compile(r"tokenizer\.model(\.v\w+)?|tekken\.json|tokenizer\.json")
_BIN = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
_VOCABULARY = re.compile(r"vocab\.(json|txt)|merges\.txt|spiece\.model|\w+\.(spm|tiktoken)")
_SMALL = frozenset(
    {
        *("config.json", "params.json", ADAPTER_CONFIG, "tokenizer_config.json"),
        *("special_tokens_map.json", "added_tokens.json", "generation_config.json"),
        *("chat_template.jinja", "chat_template.json"),
    }
)
# huggingface_hub uses requests (before 1.0; its errors are OSErrors), httpx (1.x) or httpx2 (2.x).
# The base of its own HTTP error class is the base of that library's errors.
_HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]
CONNECTION_ERRORS: tuple[type[Exception], ...] = (OSError, _HTTP_ERROR, errors.HFValidationError)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a hub repository; `size` in bytes, 0 if the hub does not state it."""

    name: str
    size: int


def resolve_model(
    ref: str,
    *,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
    reader: Reader = "native",
    programs: bool = False,
) -> Path:
    """Return the folder or GGUF file of a model, after downloading it if needed.

    Args:
        ref: a folder, a GGUF file, or a hub name such as mistralai/Mistral-7B-v0.1. What is on
            the disk wins.
        revision: branch, tag or commit of a hub name.
        say: called with a sentence before a download; None writes it to stderr.
        reader: what reads the files; transformers reads more formats than the native engine.
        programs: whether to fetch the model's own Python files too.

    Raises:
        CheckpointError: `ref` is neither a folder nor a hub name, or has no weights we can read.
        HubError: the hub refuses, does not know the name, or cannot be reached.
        ResourceError: the download does not fit on the disk.
        UsageError: `revision` is given for a folder.
    """
    folder = find_local(ref, revision)
    if folder is not None:
        return folder
    if constants.HF_HUB_OFFLINE:
        return _from_cache(ref, revision, None, reader)
    try:
        found = HfApi().model_info(ref, revision=revision, files_metadata=True)
    except CONNECTION_ERRORS as error:
        if unreachable(error):
            return _from_cache(ref, revision, error, reader)
        raise HubError(sentence_for(error, ref, revision)) from error
    remote = [RemoteFile(f.rfilename, f.size or 0) for f in found.siblings or []]
    wanted = files_to_fetch(ref, remote, reader, programs=programs)
    cached = {f.name: try_to_load_from_cache(ref, f.name, revision=found.sha) for f in wanted}
    missing = [file for file in wanted if not isinstance(cached[file.name], str)]
    _announce(ref, missing, say or _to_stderr)
    return fetch(ref, revision, [file.name for file in wanted])


def check_reference(ref: str, revision: str | None = None) -> None:
    """Check that a model is tiny, lies on the disk, or has a name as on the hub.

    Raises:
        CheckpointError: it is none of these.
        UsageError: `revision` is given, and it is not a name on the hub.
    """
    if ref != TINY:
        find_local(ref, revision)
    elif revision is not None:
        raise UsageError(
            "--revision is for names on the hub, and --model is tiny. Leave out one of the two."
        )


def check_adapter_reference(ref: str) -> None:
    """Check that an adapter lies on the disk or has a name as on the hub.

    Raises:
        CheckpointError: it is neither.
    """
    try:
        find_local(ref)
    except CheckpointError as error:
        raise CheckpointError(
            f"--adapter {ref} should be a folder with {ADAPTER_CONFIG}, as peft saves it, or a hub "
            "name such as org/name, and there is no such folder."
        ) from error


def find_local(ref: str, revision: str | None = None) -> Path | None:
    """Return the folder or file that `ref` is on the disk, or None for a hub name.

    Raises:
        CheckpointError: `ref` is neither.
        UsageError: `revision` is given for a folder or file.
    """
    folder = Path(ref).expanduser()
    if ref.strip() and folder.exists():
        if revision is not None:
            kind = "folder" if folder.is_dir() else "file"
            raise UsageError(f"--revision is for names on the hub, and {ref} is a local {kind}.")
        return folder
    if not _HUB_NAME.fullmatch(ref):
        raise CheckpointError(
            f"{ref or repr(ref)} should be a folder, a GGUF file, a hub name such as "
            "mistralai/Mistral-7B-v0.1, or tiny, and there is no such folder or file."
        )
    return None


def files_to_fetch(
    ref: str, files: Iterable[RemoteFile], reader: Reader = "native", *, programs: bool = False
) -> list[RemoteFile]:
    """Select the files of a repository that an engine reads.

    Prefer an adapter to a whole model, as transformers does, then Hugging Face's safetensors to
    Mistral's own files, and these to pytorch_model*.bin.

    Args:
        ref: the hub name, for errors.
        files: the repository's files.
        reader: transformers also reads pytorch_model*.bin and other tokenizers' files, but not
            Mistral's own weights.
        programs: whether to fetch the model's own Python files too.

    Raises:
        CheckpointError: the repository holds weights in no format that `reader` reads.
    """
    top = {file.name: file for file in files if "/" not in file.name}
    bins = {name for name in top if _BIN.fullmatch(name)}
    if ADAPTER_CONFIG in top:
        weights = {name for name in ADAPTER_WEIGHTS if name in top}
    elif HF_SINGLE in top:
        weights = {HF_SINGLE}
    elif HF_INDEX in top:
        weights = {HF_INDEX, *(name for name in top if _SHARD.fullmatch(name))}
    elif reader == "transformers" and bins:
        weights = bins
    elif reader == "native" and "params.json" in top and {RAW_SAFETENSORS, RAW_PICKLE} & set(top):
        weights = {RAW_SAFETENSORS if RAW_SAFETENSORS in top else RAW_PICKLE}
    elif any(name.lower().endswith(SUFFIX) for name in top):
        shown = ", ".join(sorted(name for name in top if name.lower().endswith(SUFFIX))[:4])
        raise CheckpointError(
            f"{ref} should hold safetensors or consolidated weights and holds GGUF files "
            f"({shown}): download one with `hf download {ref} FILE --local-dir .` and give "
            "its path."
        )
    else:
        raise _no_weights(ref, reader, bins, sorted(top))
    names = weights | {name for name in top if name in _SMALL or _TOKENIZER.fullmatch(name)}
    if reader == "transformers":
        names |= {name for name in top if _VOCABULARY.fullmatch(name)}
        names |= {name for name in top if programs and name.endswith(".py")}
    if HF_SINGLE in weights or HF_INDEX in weights:
        names.discard("params.json")
    return [top[name] for name in sorted(names)]


def _no_weights(ref: str, reader: Reader, bins: set[str], names: Sequence[str]) -> CheckpointError:
    """Return the error for a repository without weights that `reader` reads."""
    if bins:
        return UnsupportedError(
            f"{ref} should hold safetensors or consolidated weights for the native engine and "
            f"holds pytorch_model*.bin: {USE_HF}."
        )
    read = "safetensors or consolidated weights"
    if reader == "transformers":
        read = "safetensors or pytorch_model*.bin, which transformers reads,"
    shown = ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")
    return CheckpointError(
        f"{ref} should hold {read} and holds {shown or 'nothing'}: take another repository of the "
        "model."
    )


def small_files() -> list[str]:
    """Return patterns for a repository's configuration and tokenizer files."""
    return [*sorted(_SMALL), "tokenizer.model*", "tekken.json", "tokenizer.json"]


def _announce(ref: str, missing: list[RemoteFile], say: Callable[[str], None]) -> None:
    """Announce the download, or raise ResourceError if the disk cannot hold it."""
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


def fetch(ref: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch the files that are not in the cache; return the snapshot's folder."""
    try:
        # by name and not by commit, so that the cache records which commit the name stands for
        return Path(snapshot_download(ref, revision=revision, allow_patterns=patterns))
    except CONNECTION_ERRORS as error:
        raise HubError(sentence_for(error, ref, revision)) from error


def _from_cache(ref: str, revision: str | None, cause: Exception | None, reader: Reader) -> Path:
    """Return the cached snapshot without opening a connection.

    Raises:
        HubError: it is missing or incomplete; `cause` is why the hub could not be used.
    """
    why = "HF_HUB_OFFLINE is set" if cause is None else sentence_for(cause, ref, revision)
    try:
        found = snapshot_download(
            ref,
            revision=revision,
            local_files_only=True,
            allow_patterns=["config.json", ADAPTER_CONFIG],
        )
    except CONNECTION_ERRORS as error:
        if cause is not None:
            raise HubError(why) from cause
        raise HubError(
            f"{why} and the cache {constants.HF_HUB_CACHE} holds no copy of {ref}"
            f"{f' at {revision}' if revision else ''}: go online once, give a folder, {TRY_TINY}."
        ) from error
    folder = Path(found)
    lacking = _lacking(folder, reader)
    if lacking:
        raise HubError(
            f"the cached copy of {ref} in {folder} lacks {lacking}, and the hub was not asked "
            f"({'HF_HUB_OFFLINE is set' if cause is None else type(cause).__name__}): "
            f"go online to complete it, {TRY_TINY}."
        )
    return folder


def _lacking(folder: Path, reader: Reader) -> str | None:
    """Return the first file that an interrupted download left out, or None."""
    bins = f"{BIN_SINGLE}.index.json"
    weights: tuple[str, ...] = (HF_SINGLE, BIN_SINGLE)
    if (folder / ADAPTER_CONFIG).is_file():
        weights = ADAPTER_WEIGHTS
    else:
        for index, single in ((HF_INDEX, HF_SINGLE), (bins, BIN_SINGLE)):
            if (folder / index).is_file() and not (folder / single).is_file():
                shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
                return next((name for name in shards if not (folder / name).is_file()), None)
        if reader == "native":
            weights = (HF_SINGLE, RAW_SAFETENSORS, RAW_PICKLE)
    if any((folder / name).is_file() for name in weights):
        return None
    return weights[0]


def _to_stderr(text: str) -> None:
    """Write a message to stderr, since stdout is for data."""
    sys.stderr.write(text + "\n")


def unreachable(error: Exception) -> bool:
    """Return whether the hub did not answer, or answered with a server error (5xx)."""
    if _is_answer(error):
        return _status(error) >= 500
    return not isinstance(error, errors.HFValidationError)


def sentence_for(error: Exception, ref: str, revision: str | None) -> str:
    """Describe a hub error in one sentence that says what to do."""
    if _is_answer(error):
        return f"{_refusal(error, ref, revision)}, {TRY_TINY}."
    return f"{_failure(error, ref)}, {TRY_TINY}."


def _is_answer(error: Exception) -> TypeGuard[errors.HfHubHTTPError]:
    """Return whether the hub answered; before 1.0 a cache miss had the same class."""
    return isinstance(error, errors.HfHubHTTPError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _refusal(error: errors.HfHubHTTPError, ref: str, revision: str | None) -> str:
    """Explain an HTTP error of the hub."""
    page = f"https://huggingface.co/{ref}"
    status = _status(error)
    # GatedRepoError is a subclass of RepositoryNotFoundError, so it is tested first
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{ref} is gated, and this login has no access: accept its terms on {page}, then run "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{ref} has no revision {revision}: {page}/tree/main lists those it has"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{ref} is neither a local folder nor a model on the hub that this login can see: "
            "check the name, run `hf auth login` if it is private"
        )
    if status in {401, 403}:
        return f"the hub refused {ref} ({status}): run `hf auth login` or set HF_TOKEN"
    if status == 429:
        return (
            f"the hub limits the rate of requests (429) for {ref}: wait a few minutes and try again"
        )
    return f"the hub answered {status} for {ref}: try again later, give a folder"


def _failure(error: Exception, ref: str) -> str:
    """Explain a failure to reach the hub or to write to the cache."""
    if isinstance(error, errors.HFValidationError):
        return f"{ref} is not a valid name on the hub ({error}): check it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk filled up while {ref} was downloaded: free some space and start again"
    if isinstance(error, PermissionError):
        return f"the hub's cache cannot be written ({error}): set HF_HOME to a writable folder"
    kind = type(error.__cause__ or error).__name__
    return (
        f"the Hugging Face hub could not be reached for {ref} ({kind}): check the network or its "
        "proxy, give a folder"
    )


def _status(error: errors.HfHubHTTPError) -> int:
    """Return the HTTP status of an error; 0 without a response."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
