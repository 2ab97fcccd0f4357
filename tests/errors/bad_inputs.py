"""The catalogue: what is wrong, how it is made wrong, what is said and the exit code.

Each row's `make` gets an empty folder, prepares the wrong thing in it and returns the arguments of
the command line that meets it. Rows about arguments alone stand in tests/cli/test_errors.py, those
about settings files in tests/cli/test_config_file.py.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from mistral_eval.data.sources import SAMPLE
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from tests.checkpoints import save_raw

SMALL = ("run", "-t", "winogrande", "--data", "sample", "-L", "2")
Make = Callable[[Path], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Bad:
    """One row: a name, what is prepared, a part of the sentence, the exit code."""

    name: str
    make: Make
    sentence: str
    code: int = 1


def data(change: Callable[[list[dict[str, Any]]], object], task: str = "winogrande") -> Make:
    """A parquet copy of the sample's rows of a benchmark, changed."""
    where = {
        "winogrande": "winogrande/**/validation",
        "arc_easy": "ai2_arc/ARC-Easy/test",
        "piqa": "piqa/**/validation",
    }[task]

    def make(folder: Path) -> Sequence[object]:
        (source,) = SAMPLE.glob(f"{where}.jsonl")
        rows = [json.loads(line) for line in source.open(encoding="utf-8")]
        target = folder / source.relative_to(SAMPLE).with_suffix(".parquet")
        target.parent.mkdir(parents=True)
        changed = change(rows)
        table = changed if isinstance(changed, pa.Table) else pa.Table.from_pylist(rows)
        pq.write_table(table, target)
        return ("run", "-t", task, "--data", folder, "--engine", "random", "--data-unpinned")

    return make


def each(**columns: object) -> Callable[[list[dict[str, Any]]], None]:
    """Set columns of every row."""

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row.update(columns)

    return change


def lines(content: bytes) -> Make:
    """WinoGrande's rows as a JSON lines file of these bytes."""

    def make(folder: Path) -> Sequence[object]:
        target = folder / "winogrande/winogrande_xl/validation.jsonl"
        target.parent.mkdir(parents=True)
        target.write_bytes(content)
        return ("run", "-t", "winogrande", "--data", folder, "--engine", "random")

    return make


def checkpoint(change: Callable[[Path], object], *more: str) -> Make:
    """A Hugging Face folder of the tiny model, changed."""

    def make(folder: Path) -> Sequence[object]:
        model = save_hf(make_tiny(), folder / "hf", tokenizer_file=tiny_tokenizer_file())
        change(model)
        return (*SMALL, "-m", model, *more)

    return make


def raw(change: Callable[[Path], object]) -> Make:
    """A folder in Mistral's own form, changed."""

    def make(folder: Path) -> Sequence[object]:
        model = save_raw(make_tiny(), folder / "raw", tokenizer_file=tiny_tokenizer_file())
        change(model)
        return (*SMALL, "-m", model)

    return make


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change the tensors of model.safetensors."""

    def apply(model: Path) -> None:
        file = model / "model.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file, metadata={"format": "pt"})

    return apply


def fields(file: str, **values: object) -> Callable[[Path], None]:
    """Change fields of a JSON file; None takes one out."""

    def apply(model: Path) -> None:
        content = json.loads((model / file).read_text())
        content.update(values)
        kept = {key: value for key, value in content.items() if value is not None}
        (model / file).write_text(json.dumps(kept))

    return apply


def cut(file: str, share: float = 0.5) -> Callable[[Path], None]:
    """Leave the first part of a file."""

    def apply(model: Path) -> None:
        content = (model / file).read_bytes()
        (model / file).write_bytes(content[: int(len(content) * share)])

    return apply


def write(file: str, content: bytes) -> Callable[[Path], None]:
    """Replace a file's content."""
    return lambda model: (model / file).write_bytes(content)


def remove(*patterns: str) -> Callable[[Path], None]:
    """Take files away."""

    def apply(model: Path) -> None:
        for pattern in patterns:
            for file in model.glob(pattern):
                file.unlink()

    return apply


def pickled(value: object) -> Callable[[Path], None]:
    """consolidated.00.pth with a pickle of something else in it."""

    def apply(model: Path) -> None:
        remove("consolidated*")(model)
        (model / "consolidated.00.pth").write_bytes(pickle.dumps(value))

    return apply


def with_nan(found: dict[str, torch.Tensor]) -> None:
    found["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")


def without_norm(found: dict[str, torch.Tensor]) -> None:
    del found["model.norm.weight"]


def with_surplus(found: dict[str, torch.Tensor]) -> None:
    found["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)


def run_json(content: bytes, *command: str) -> Make:
    """A run's folder with this run.json, and a command that reads it."""

    def make(folder: Path) -> Sequence[object]:
        (folder / "run.json").write_bytes(content)
        return (*command, folder)

    return make


def with_journal(make: Make) -> Make:
    """The same folder, with a journal as version 0.1.0 kept one."""

    def made(folder: Path) -> Sequence[object]:
        (folder / "journal.sqlite").write_bytes(b"SQLite format 3\0")
        return make(folder)

    return made


def twice(rows: list[dict[str, Any]]) -> None:
    rows.append(dict(rows[0]))


def as_numbers(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["option1"] = 3


RECORD = Path(__file__).parents[2] / "results" / "ci" / "tiny" / "run.json"
LEFT_OUT = object()


def record(*command: str, **changes: object) -> Make:
    """The run.json of a finished run with some fields changed, and a command that reads it."""
    content = json.loads(RECORD.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not LEFT_OUT}
    return run_json(json.dumps(kept).encode(), *command)


CATALOGUE = [
    Bad(
        "data: no rows",
        data(lambda rows: pa.Table.from_pylist(rows[:1]).slice(1)),
        "should have rows, but it is empty",
    ),
    Bad(
        "data: a number where text belongs",
        data(as_numbers),
        "should have text in column option1, but holds 3",
    ),
    Bad(
        "data: a missing value",
        data(each(option2=None)),
        "should have text in column option2, but holds None",
    ),
    Bad(
        "data: a gold outside the choices",
        data(each(answer="3")),
        "should name one of its 2 choices as the right one",
    ),
    Bad(
        "data: an answer key that no choice has",
        data(each(answerKey="Z"), "arc_easy"),
        "should name one of its 4 choices as the right one",
    ),
    Bad("data: an id twice", data(twice, "arc_easy"), "'Mercury_SC_401143' is there 2 times"),
    Bad(
        "data: no blank in the sentence",
        data(each(sentence="none")),
        "should name one of its 2 choices",
    ),
    Bad(
        "data: a gold index outside",
        data(each(label=7), "piqa"),
        "piqa, split validation, row 0, should name one of its 2 choices",
    ),
    Bad(
        "data: invalid UTF-8",
        lines(b'{"sentence": "\xff\xfe"}\n'),
        "should be UTF-8 text, but is not",
    ),
    Bad(
        "data: a line that is no JSON",
        lines(b'{"sentence": \n'),
        "one JSON object a line, but line 1 is not",
    ),
    Bad("data: a line that is a list", lines(b"[1, 2]\n"), "line 1 holds a list"),
    Bad("data: an empty file", lines(b""), "one JSON object a line, but line 1 is not"),
    Bad(
        "checkpoint: truncated weights",
        checkpoint(cut("model.safetensors")),
        "is not a complete safetensors file",
    ),
    Bad(
        "checkpoint: weights of a few bytes",
        checkpoint(write("model.safetensors", b"no")),
        "is not a complete safetensors file",
    ),
    Bad(
        "checkpoint: NaN in a tensor",
        checkpoint(tensors(with_nan)),
        "tensor model.layers.1.mlp.up_proj.weight holds NaN or infinity",
    ),
    Bad(
        "checkpoint: a tensor missing",
        checkpoint(tensors(without_norm)),
        "tensor model.norm.weight of shape (64,) is missing",
    ),
    Bad(
        "checkpoint: a tensor too many",
        checkpoint(tensors(with_surplus)),
        "tensor model.layers.9.mlp.up_proj.weight of shape (2, 2) has no place",
    ),
    Bad("checkpoint: config.json cut", checkpoint(cut("config.json")), "config.json is not JSON"),
    Bad(
        "checkpoint: config.json a list",
        checkpoint(write("config.json", b"[]")),
        "should hold a JSON object and holds list",
    ),
    Bad(
        "checkpoint: no config.json",
        checkpoint(remove("config.json")),
        "should hold config.json with model.safetensors",
    ),
    Bad(
        "checkpoint: a size of nought",
        checkpoint(fields("config.json", hidden_size=0)),
        "hidden_size should be a positive whole number and is 0",
    ),
    Bad(
        "checkpoint: no number of layers",
        checkpoint(fields("config.json", num_hidden_layers=None)),
        "config.json has no field num_hidden_layers",
    ),
    Bad(
        "checkpoint: a field of text",
        checkpoint(fields("config.json", rms_norm_eps="tiny")),
        "rms_norm_eps should be a positive number and is 'tiny'",
    ),
    Bad("checkpoint: nothing in the folder", checkpoint(remove("*")), "it holds nothing. Copy"),
    Bad(
        "checkpoint: an unknown field",
        checkpoint(lambda _: None, "--model-args", "rope_teta=1"),
        "knows no field rope_teta: did you mean rope_theta?",
        2,
    ),
    Bad(
        "checkpoint: a revision of a folder",
        checkpoint(lambda _: None, "--revision", "main"),
        "--revision is for names on the hub",
        2,
    ),
    Bad(
        "checkpoint: a pickle of code",
        raw(pickled(Path("no weights"))),
        "is not a complete torch.save file",
    ),
    Bad(
        "checkpoint: a pickle of a list", raw(pickled([1, 2])), "is not a complete torch.save file"
    ),
    Bad("checkpoint: params.json cut", raw(cut("params.json")), "params.json is not JSON"),
    Bad(
        "tokenizer: none",
        checkpoint(remove("tokenizer*")),
        "should hold tokenizer.model, tekken.json or tokenizer.json and holds none",
    ),
    Bad("tokenizer: cut", checkpoint(cut("tokenizer.model")), "is not a SentencePiece model"),
    Bad(
        "tokenizer: empty",
        checkpoint(write("tokenizer.model", b"")),
        "is not a SentencePiece model (0 bytes)",
    ),
    Bad("run.json: not JSON", run_json(b"{", "table"), "cannot be read as JSON"),
    Bad(
        "run.json: another version",
        run_json(b'{"format": 99}', "table"),
        "should have format 1, found 99",
    ),
    Bad("run.json: a list", run_json(b"[]", "samples"), "should have format 1, found a list"),
    Bad(
        "run.json: its format alone",
        run_json(b'{"format": 1}', "samples"),
        "run.json: status: expected a value, found no such field. Delete run.json and run the",
    ),
    Bad(
        "run.json: unfinished",
        record("samples", status="running"),
        "run.json: status: unknown value 'running'. Known: finished.",
    ),
    Bad(
        "run.json: no results file",
        record("samples", results_file=LEFT_OUT),
        "run.json: results_file: expected a value, found no such field.",
    ),
    Bad(
        "run.json: no settings",
        record("table", settings={}),
        "run.json: settings: --tasks: expected a value, found no such field.",
    ),
    Bad(
        "run.json: a score of text",
        record("table", scores={"mmlu": {"value": "high"}}),
        "run.json: scores.mmlu.value: expected a number, found 'high'.",
    ),
    Bad(
        "rescore: no replies",
        record("rescore"),
        "should hold the run's replies in replies/*.jsonl, but there are none",
    ),
    Bad(
        "rescore: a journal of 0.1.0",
        with_journal(record("rescore")),
        "holds journal.sqlite, the journal of a run of mistral-eval 0.1.0",
    ),
    Bad("compare: one run", record("compare"), "compare expects two runs or more", 2),
    Bad(
        "samples: no folder",
        lambda folder: ("samples", folder / "nothing"),
        "should be a run's folder",
    ),
    Bad(
        "report: no folder",
        lambda folder: ("report", folder / "x", "-o", folder / "y.html"),
        "should be a run's folder",
    ),
    Bad(
        "table: a URL without a run",
        lambda folder: ("table", f"file://{folder}/m/run"),
        "should be a run's folder with a run.json in it, and holds nothing",
    ),
    Bad(
        "compare: a URL of no store",
        lambda _: ("compare", "gopher://a/b/c", "gopher://a/b/d"),
        "gopher://a should be the URL of a store that fsspec reaches",
    ),
    Bad(
        "rescore: a URL below a file",
        lambda folder: ("rescore", f"file://{_file(folder)}/m/run"),
        "Give the URL that `mistral-eval run` printed",
    ),
]


def _file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"
