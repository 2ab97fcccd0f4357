"""Sources of rows: the hub, the bundled sample, or a folder in the hub's layout."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mistral_eval.data.hub_rows import rows_from_hub
from mistral_eval.data.task_file import DataSpec, Row, column_paths
from mistral_eval.errors import DataError
from mistral_eval.lfs import pointer_sentence

SAMPLE: Final = Path(__file__).resolve().parent / "sample"
SUFFIXES: Final = (".parquet", ".jsonl")
_SHARD: Final = re.compile(r"(?P<number>\d+)-of-(?P<count>\d+)\.(parquet|jsonl)")


@dataclass(frozen=True, slots=True)
class Source:
    """A source of rows; `sample` and `folder` read the files below `folder`."""

    kind: Literal["hub", "sample", "folder"]
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.kind == "folder" else self.kind


def make_source(text: str) -> Source:
    """Parse `--data`: `hub`, `sample`, or a folder that is not empty.

    Raises:
        DataError: the folder is missing, is not a folder, or is empty.
    """
    if text == "hub":
        return Source("hub")
    if text == "sample":
        return Source("sample", SAMPLE)
    folder = Path(text).expanduser()
    advice = (
        "Give --data hub, --data sample, or a folder <name>/<config>/<split>.parquet "
        "in the hub's column schema, or data sets as they lie on the hub."
    )
    if not folder.exists():
        raise DataError(f"The data folder {folder} does not exist. {advice}")
    if not folder.is_dir():
        raise DataError(f"The data folder {folder} is a file, not a folder. {advice}")
    if not any(folder.iterdir()):
        raise DataError(f"The data folder {folder} is empty. {advice}")
    return Source("folder", folder)


def read_split(spec: DataSpec, source: Source, split: str) -> tuple[list[Row], str | None]:
    """Read all rows of one split, configuration by configuration; only columns are checked.

    A split that the YAML file holds is taken from there. The sample has no questions of some
    configurations.

    Returns:
        The rows, and the hub's commit if they are from the hub and it is known.

    Raises:
        DataError: files or columns are missing, or a file cannot be read.
        HubError: the hub did not answer, or refused.
    """
    if split in spec.rows:
        return [dict(row) for row in spec.rows[split]], None
    rows: list[Row] = []
    commit = None
    for config in spec.configs:
        if source.folder is None:
            some, commit = rows_from_hub(spec, config, split)
        elif source.kind == "sample" and len(spec.configs) > 1:
            files = split_files(spec, source.folder, config, split)
            some = [row for file in files for row in _from_file(spec, file)]
        else:
            files = _find(spec, source.folder, config, split)
            some = [row for file in files for row in _from_file(spec, file)]
        if spec.config_column is not None:
            some = [{**row, spec.config_column: config} for row in some]
        rows += some
    return rows, commit


def split_files(spec: DataSpec, folder: Path, config: str | None, split: str) -> list[Path]:
    """Return the files of one split in the order of their rows; none if the folder lacks it.

    Our own layout comes first: the first of the benchmark's folders that has `<split>.parquet` or
    `<split>.jsonl`. Then the hub's: `<split>-00000-of-00001.parquet` in `<org>/<name>/<config>` or
    `<org>/<name>/data`, with or without the organisation.

    Raises:
        DataError: a shard of the split is missing.
    """
    for place in _places(spec, folder, config):
        for suffix in SUFFIXES:
            if (place / f"{split}{suffix}").is_file():
                return [place / f"{split}{suffix}"]
        shards = {}
        for file in place.glob(f"{split}-*"):
            if match := _SHARD.fullmatch(file.name.removeprefix(f"{split}-")):
                shards[int(match["number"])] = (file, int(match["count"]))
        if shards:
            return _all_shards(place, split, shards)
    return []


def sought(spec: DataSpec, config: str | None, split: str) -> str:
    """Return the files of one split that a folder should hold, in words: "A or B"."""
    tried = [
        f"{Path(pattern.format(config=config)) / f'{split}.parquet'} (or .jsonl)"
        for pattern in spec.folders
    ]
    hub = Path(spec.path) / (config or "data") / f"{split}-00000-of-00001.parquet"
    return " or ".join(map(str, [*tried, hub]))


def is_absent(spec: DataSpec, folder: Path) -> bool:
    """Return whether a folder holds no file of a benchmark; one with a part of them is damaged."""
    splits = [split for split in spec.splits if split not in spec.rows]
    return not any(
        split_files(spec, folder, config, split) for config in spec.configs for split in splits
    )


def _places(spec: DataSpec, folder: Path, config: str | None) -> list[Path]:
    """Return the folders in which a split's files may lie, the most specific first."""
    own = [folder / pattern.format(config=config) for pattern in spec.folders]
    homes = (folder / spec.path, folder / spec.path.rpartition("/")[2])
    below = [name for name in (config, "default", "data", "") if name is not None]
    return list(dict.fromkeys([*own, *(home / name for home in homes for name in below)]))


def _all_shards(place: Path, split: str, shards: Mapping[int, tuple[Path, int]]) -> list[Path]:
    count = max(of for _, of in shards.values())
    missing = [number for number in range(count) if number not in shards]
    if missing:
        raise DataError(
            f"{place} should hold {count} files of split {split}, but "
            f"{split}-{missing[0]:05d}-of-{count:05d} is missing. Copy or download it too."
        )
    return [shards[number][0] for number in range(count)]


def _find(spec: DataSpec, folder: Path, config: str | None, split: str) -> list[Path]:
    """Return the files of one split (see `split_files`).

    Raises:
        DataError: there are none; names what lies there instead.
    """
    if files := split_files(spec, folder, config, split):
        return files
    there = sorted(file for suffix in SUFFIXES for file in folder.rglob(f"*{suffix}"))
    names = ", ".join(str(file.relative_to(folder)) for file in there[:4])
    more = f" and {len(there) - 4} more" if len(there) > 4 else ""
    found = f"{names}{more}" if there else "no parquet or JSON lines file"
    raise DataError(
        f"The data folder {folder} should hold {sought(spec, config, split)} for "
        f"{spec.benchmark}, but there is no such file; it holds {found}. Add it, leave the "
        f"benchmark out of --tasks, or give --data hub{'' if folder == SAMPLE else ' or sample'}."
    )


def _from_file(spec: DataSpec, file: Path) -> list[Row]:
    if sentence := pointer_sentence(file):
        raise DataError(sentence)
    if file.suffix == ".jsonl":
        return _from_jsonl(spec, file)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        present = dict.fromkeys(
            f"{field.name}{below}"
            for field in schema
            for below in ("", *(f".{child.name}" for child in _children(field.type)))
        )
        spec.require_columns(present, str(file))
        table = pq.read_table(file, columns=spec.top_columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{file} should be a parquet file, but it could not be read: {error}. "
            "Copy or download it again."
        ) from error
    return [spec.pick(row) for row in table.to_pylist()]


def _children(kind: Any) -> list[Any]:
    import pyarrow as pa

    return list(kind) if isinstance(kind, pa.StructType) else []


def _from_jsonl(spec: DataSpec, file: Path) -> list[Row]:
    rows = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} should be UTF-8 text, but is not: {error}. Copy or download it again."
        ) from error
    # not splitlines(): it also splits at U+2028, which JSON allows unescaped
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file} should hold one JSON object a line, but line {number} is not: {error}. "
                "Copy or download it again."
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file} should hold one JSON object a line, but line {number} holds a "
                f"{type(row).__name__}. Copy or download it again."
            )
        spec.require_columns(column_paths(row), f"{file}, line {number},")
        rows.append(spec.pick(row))
    return rows
