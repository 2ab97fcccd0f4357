"""Write the bundled sample: `python tools/make_sample.py DIR`, where DIR holds whole test sets.

A benchmark's sample has 16 questions, evenly spaced over the test set, so that every machine
chooses the same ones. Where shots are rows (`shots_by`), it has two questions of each of eight
groups and those groups' shots. Of conversations it has the shortest ones of each category, of
OpenAI's moderation set the shortest of either label. Columns that no benchmark reads are left out.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from make_pins import has_whole_set

from mistral_eval.data.sources import SAMPLE
from mistral_eval.data.task_file import DataSpec, data_spec
from mistral_eval.suite.registry import BY_ID

QUESTIONS: Final = 16
GROUPS: Final = 8
# The whole set lacks the hub's markup in most rows; this part of it is complete.
OTHER_FOLDERS: Final = {"hellaswag": "hellaswag/raw1000"}
# Benchmarks of which the shortest questions of each stratum ship: the others fill a page each.
SHORTEST: Final = ("mt_bench", "moderation_openai")
# Labels of OpenAI's set of which no text ships: all but violence.
UNSHIPPED_LABELS: Final = {"moderation_openai": ("S", "H", "HR", "SH", "S3", "H2", "V2")}
# Configurations of which no question ships: LogiQA's licence forbids commercial use.
NOT_SHIPPED: Final = ("logiqa-en",)

Table = list[dict[str, Any]]


def spread(count: int, size: int) -> list[int]:
    """Return `count` places of `size`, each in the middle of its share."""
    return [(2 * place + 1) * size // (2 * count) for place in range(count)]


def write_sample(benchmark: str, whole: Path, target: Path = SAMPLE) -> None:
    """Write one benchmark's sample, replacing its files."""
    spec = data_spec(benchmark)
    for file, rows in _sample_of(spec, whole).items():
        path = target / f"{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(_read_columns(spec, row), ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")


def main(folder: str, target: str | Path = SAMPLE) -> None:
    """Write every benchmark's sample, except those written by hand."""
    for benchmark in filter(has_whole_set, BY_ID):
        write_sample(benchmark, Path(folder), Path(target))


def _sample_of(spec: DataSpec, whole: Path) -> Mapping[str, Table]:
    """Return the benchmark's files below the sample folder, and their rows."""
    split = spec.splits[0]
    folders = [
        spec.folders[0].format(config=config)
        for config in spec.configs
        if config not in NOT_SHIPPED
    ]
    if spec.shots_by and not spec.rows:
        return _grouped(spec, folders[0], whole)
    other = OTHER_FOLDERS.get(spec.benchmark)
    read = (_read(whole / (other or folder) / split) for folder in folders)
    tables = [[row for row in rows if _may_ship(spec, row)] for rows in read]
    places = [(index, row) for index, table in enumerate(tables) for row in table]
    chosen = _shortest(spec, places) if spec.benchmark in SHORTEST else _evenly(places, QUESTIONS)
    files = {
        f"{folder}/{split}": [row for index, row in chosen if folders[index] == folder]
        for folder in folders
    }
    return {file: rows for file, rows in files.items() if rows}


def _grouped(spec: DataSpec, folder: str, whole: Path) -> Mapping[str, Table]:
    asked, solved = (_read(whole / folder / split) for split in spec.splits)
    assert spec.shots_by is not None, spec
    names = _evenly(list(dict.fromkeys(row[spec.shots_by] for row in asked)), GROUPS)
    chosen: Table = []
    for name in names:
        rows = [row for row in asked if row[spec.shots_by] == name]
        chosen += _evenly(rows, QUESTIONS // GROUPS)
    shots = [row for row in solved if row[spec.shots_by] in names]
    return {f"{folder}/{spec.splits[0]}": chosen, f"{folder}/{spec.splits[1]}": shots}


def _may_ship(spec: DataSpec, row: Mapping[str, Any]) -> bool:
    """Whether a row is a question, and of no label that is left out."""
    unshipped = UNSHIPPED_LABELS.get(spec.benchmark, ())
    return BY_ID[spec.benchmark].is_asked(row) and not any(row[label] for label in unshipped)


def _shortest(spec: DataSpec, places: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the shortest rows of each stratum, or gold, equally many, in the set's order."""
    strata: dict[str, list[tuple[int, int]]] = {}
    for place, (_, row) in enumerate(places):
        length = len(json.dumps(_read_columns(spec, row)))
        stratum = row[spec.stratum] if spec.stratum else BY_ID[spec.benchmark].gold(row).texts[0]
        strata.setdefault(stratum, []).append((length, place))
    each = QUESTIONS // len(strata)
    chosen = (place for found in strata.values() for _, place in sorted(found)[:each])
    return [places[place] for place in sorted(chosen)]


def _read_columns(spec: DataSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the columns that a benchmark reads whose rows are these, and no others."""
    specs = (data_spec(name) for name in BY_ID)
    picked = [other.pick(row) for other in specs if other.folders == spec.folders]
    return {name: value for one in picked for name, value in one.items()}


def _evenly(rows: Sequence[Any], count: int) -> list[Any]:
    return [rows[place] for place in spread(count, len(rows))]


def _read(split: Path) -> Table:
    """Return the rows of a split's parquet or JSON lines file, given without its suffix."""
    lines = split.with_name(f"{split.name}.jsonl")
    if lines.is_file():
        return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rows: Table = pq.read_table(split.with_name(f"{split.name}.parquet")).to_pylist()
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
