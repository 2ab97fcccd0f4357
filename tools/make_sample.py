"""Make the bundled sample: `python -m mistral_eval.data.make_sample DIR` writes `data/sample/`.

DIR holds the whole test sets. 16 questions a benchmark, spread evenly over the test set: the same
ones on every machine. MMLU: two of each of eight subjects, with those subjects' five dev rows.
MATH: over its seven subjects. HellaSwag's are taken from rows that have the hub's every field,
markup included.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistral_eval.data.sources import SAMPLE
from mistral_eval.data.task_file import data_spec
from mistral_eval.suite.registry import BY_ID

QUESTIONS: Final = 16
SUBJECTS: Final = 8
HELLASWAG: Final = "hellaswag/raw1000"

Table = list[dict[str, Any]]


def spread(count: int, size: int) -> list[int]:
    """`count` places of `size`, each in the middle of its share."""
    return [(2 * place + 1) * size // (2 * count) for place in range(count)]


def main(folder: str) -> None:
    """Write every benchmark's sample, replacing what was there."""
    shutil.rmtree(SAMPLE, ignore_errors=True)
    whole = Path(folder)
    for benchmark in BY_ID:
        for file, rows in _sample_of(benchmark, whole).items():
            target = SAMPLE / f"{file}.jsonl"
            target.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            target.write_text("".join(lines), encoding="utf-8")


def _sample_of(benchmark: str, whole: Path) -> Mapping[str, Table]:
    """The benchmark's files below the sample folder, and their rows."""
    spec = data_spec(benchmark)
    split = spec.splits[0]
    target = spec.folders[0]
    if benchmark == "mmlu":
        return _mmlu(whole / "mmlu" / "all")
    if benchmark == "hellaswag":
        return {f"{target}/{split}": _evenly(_read(whole / HELLASWAG / f"{split}.parquet"))}
    files = [f"{target.format(config=config)}/{split}" for config in spec.configs]
    tables = [_read(whole / f"{file}.parquet") for file in files]
    places = [(index, row) for index, table in enumerate(tables) for row in table]
    chosen = _evenly(places)
    return {file: [row for index, row in chosen if files[index] == file] for file in files}


def _mmlu(folder: Path) -> Mapping[str, Table]:
    test, dev = _read(folder / "test.parquet"), _read(folder / "dev.parquet")
    names = list(dict.fromkeys(row["subject"] for row in test))
    subjects = [names[place] for place in spread(SUBJECTS, len(names))]
    chosen: Table = []
    for subject in subjects:
        rows = [row for row in test if row["subject"] == subject]
        chosen += [rows[place] for place in spread(QUESTIONS // SUBJECTS, len(rows))]
    shots = [row for row in dev if row["subject"] in subjects]
    return {"mmlu/all/test": chosen, "mmlu/all/dev": shots}


def _evenly(rows: Sequence[Any]) -> list[Any]:
    return [rows[place] for place in spread(QUESTIONS, len(rows))]


def _read(file: Path) -> Table:
    import pyarrow.parquet as pq

    rows: Table = pq.read_table(file).to_pylist()
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
