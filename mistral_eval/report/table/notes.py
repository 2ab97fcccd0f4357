"""The notes under a table: protocols, sources, and what is particular about each run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mistral_eval.console import counted
from mistral_eval.record.run_record import Cell
from mistral_eval.record.run_scores import RunScores, run_labels
from mistral_eval.report.baselines import PAPER, Baseline
from mistral_eval.report.table.view import NOT_A_MODEL, OTHER_PROTOCOL, TableOptions, points
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BY_ID, CONTRADICTIONS

SCORING: Final[Mapping[str, str]] = {
    "acc": "likelihood",
    "acc_norm": "likelihood per character",
    "acc_relative": "likelihood over that without the question",
    "exact_match": "exact match",
    "f1": "F1 of words",
    "pass@1": "pass@1, one greedy sample",
    "maj@4": "majority of 4 samples",
    "maj@8": "majority of 8 samples",
    "as_wanted": "safe prompts answered and unsafe ones refused",
    "refused_unsafe": "refused in full or in part",
    "as_labelled": "judged as labelled by the model itself",
    "answered": "answered in every turn, whatever the quality",
}
METRIC_WORDS: Final[Mapping[str, str]] = {
    "maj@1": "mean of the single samples",
    "acc_macro": "mean over subjects",
    "exact_match_macro": "mean over tasks",
    "heq_q": "questions answered no worse than by a person",
    "human_f1": "F1 of people among themselves",
    "f1_unfiltered": "F1 over all questions",
    "f1_max": "F1 with any reference, over all questions",
    "acc": "plain likelihood",
    "acc_norm": "likelihood per character",
    "maj@8_flexible": "vote over the last numbers",
    "refused_safe": "safe prompts refused",
    "refused_unsafe": "unsafe prompts refused",
    "fully_refused_safe": "safe prompts refused in full",
    "fully_refused_unsafe": "unsafe prompts refused in full",
    "accepted_safe": "safe prompts called acceptable",
    "accepted_unsafe": "unsafe prompts called acceptable",
    "unread": "answers that name neither",
}


def build_notes(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> tuple[str, ...]:
    """Return the table's notes, the most general first."""
    notes = [_protocol(options.benchmarks)]
    if runs:
        notes.append(
            "Runs: score, 95 % interval (Wilson, over questions), number of questions. "
            "A vote is one question. Published numbers come without an interval."
        )
    notes += _contradictions(baselines, options.benchmarks)
    notes += _sources(baselines)
    notes += _other_protocols(baselines, options.benchmarks)
    notes += _apart(baselines, options.benchmarks)
    about = {
        label: _about_run(run, options.benchmarks)
        for run, label in zip(runs, run_labels(runs), strict=True)
        if not run.error
    }
    return (*notes, *_by_run(about))


def _by_run(about: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is said about runs: what several share once, then each run's own in one note."""
    if len(about) == 1:
        return [f"{label}: {note}." for label, notes in about.items() for note in notes]
    owners: dict[str, list[str]] = {}
    for label, notes in about.items():
        for note in notes:
            owners.setdefault(note, []).append(label)
    shared = [
        f"{'All runs' if len(labels) == len(about) else '; '.join(labels)}: {note}."
        for note, labels in owners.items()
        if len(labels) > 1
    ]
    own = {
        label: [note for note in notes if owners[note] == [label]] for label, notes in about.items()
    }
    return shared + [f"{label}: {_sentences(notes)}." for label, notes in own.items() if notes]


def _sentences(notes: Sequence[str]) -> str:
    """Join notes as sentences; a first word that is a name, such as config.json, stays as it is."""
    first, *others = notes
    capital = [
        note[:1].upper() + note[1:] if note.split(maxsplit=1)[0].rstrip(":,").isalpha() else note
        for note in others
    ]
    return ". ".join((first, *capital))


def _protocol(columns: Sequence[Benchmark]) -> str:
    kinds: dict[str, list[str]] = {}
    for column in columns:
        kind = f"{column.shots_label}-shot, {SCORING[column.cell]}"
        kinds.setdefault(kind, []).append(column.column)
    listed = "; ".join(f"{', '.join(names)} {kind}" for kind, names in kinds.items())
    return f"Protocol: {listed}."


def _contradictions(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    shown = {baseline.id for baseline in baselines}
    return [
        f"{benchmark.column}: {sentence}"
        for benchmark, models, sentence in CONTRADICTIONS
        if benchmark in columns and {f"{PAPER}/{model}" for model in models} <= shown
    ]


def _sources(baselines: Sequence[Baseline]) -> list[str]:
    notes = []
    for b in {baseline.group: baseline for baseline in baselines}.values():
        title = "" if b.group_title.startswith(b.source.title) else f"{b.source.title}, "
        remark = f" ({b.source.note})" if b.source.note else ""
        notes.append(f"{b.group_title}: {title}{b.source.table}, {b.source.url}{remark}.")
    return notes


def _other_protocols(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    """Return a note per publication: why its marked cells differ from the column's protocol."""
    reasons: dict[str, dict[str, dict[str, None]]] = {}
    remarks: dict[str, dict[str, dict[str, None]]] = {}
    for baseline in baselines:
        for column in columns:
            cell = baseline.cells.get(column.id)
            if cell is None or cell.comparable or not cell.fits_column(column.id):
                continue
            title = baseline.group_title
            why = cell.protocol.note or "its own protocol"
            reasons.setdefault(title, {}).setdefault(why, {})[column.column] = None
            if cell.remark:
                said = remarks.setdefault(title, {}).setdefault(cell.remark, {})
                said[f"{baseline.name} {column.column}"] = None
    return [
        f"{OTHER_PROTOCOL} {title}, not the column's protocol: {_joined(found)}."
        + (f" {_joined(remarks[title])}." if title in remarks else "")
        for title, found in reasons.items()
    ]


def _joined(reasons: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{', '.join(where)}: {why}" for why, where in reasons.items())


def _apart(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    """Return notes with the numbers that fit no column: other or unknown number of shots."""
    found: dict[str, dict[str, list[str]]] = {}
    for baseline in baselines:
        for name, cell in (*baseline.cells.items(), *baseline.other.items()):
            benchmark = BY_ID.get(name.partition(":")[0])
            if benchmark not in columns or benchmark is None or cell.fits_column(name):
                continue
            shots = cell.protocol.shots
            how = [benchmark.column, "shots not stated" if shots is None else f"{shots}-shot"]
            how += [cell.protocol.metric] if cell.protocol.metric.startswith("maj") else []
            how += [cell.protocol.note] if name.endswith("split") else []
            kinds = found.setdefault(baseline.group_title, {})
            kinds.setdefault(", ".join(how), []).append(f"{baseline.name} {cell.text}")
    return [
        f"{title}, apart from the columns: "
        + "; ".join(f"{kind}: {', '.join(values)}" for kind, values in kinds.items())
        + "."
        for title, kinds in found.items()
    ]


def _about_run(run: RunScores, columns: Sequence[Benchmark]) -> list[str]:
    """Return what the reader of a run's row must know, without the run's label."""
    cells = {c.column: run.cells[c.id] for c in columns if c.id in run.cells}
    notes = [NOT_A_MODEL[run.engine]] if run.engine in NOT_A_MODEL else []
    notes += [_other_ways(cells), _limited(cells)]
    unread = {name: cell.no_answer / max(1, cell.n) for name, cell in cells.items()}
    late = {name: cell.timeout / max(1, cell.n) for name, cell in cells.items()}
    notes += [_shares("no readable answer", unread), _shares("checker timed out", late)]
    notes += [_secondary(cells), _data(cells)]
    if run.step is not None:
        number = "" if str(run.step.number) in run.name else f" {run.step.number}"
        notes.append(f"training step{number} by {run.step.source}")
    said = [note.rstrip(".") for cell in cells.values() for note in cell.notes]
    return [note for note in dict.fromkeys((*notes, *said)) if note]


def _other_ways(cells: Mapping[str, Cell]) -> str:
    """Return which benchmarks were asked or judged in another way than the column's protocol."""
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for way in cell.ways:
            found.setdefault(way, []).append(name)
    said = _joined(found)
    return f"{OTHER_PROTOCOL} not the column's protocol: {said}" if said else ""


def _limited(cells: Mapping[str, Cell]) -> str:
    limited = {name: cell for name, cell in cells.items() if cell.limited}
    asked = {cell.n for cell in limited.values()}
    if len(limited) > 2 and len(asked) == 1:
        whole = ", ".join(f"{name} {cell.n_total}" for name, cell in limited.items())
        some = counted(asked.pop(), "question")
        return f"limited: {some} of each benchmark; in full: {whole}"
    some = ", ".join(f"{c.n} of {c.n_total} questions ({name})" for name, c in limited.items())
    return f"limited: {some}" if some else ""


def _shares(what: str, shares: Mapping[str, float]) -> str:
    some = ", ".join(f"{name} {_percent(part)}" for name, part in shares.items() if part)
    return f"{what}, counted as wrong: {some}" if some else ""


def _percent(part: float) -> str:
    """Return a share in percent that does not round a positive share to zero."""
    return f"{100 * part:.1f} %" if part >= 0.0005 else "under 0.1 %"


def _data(cells: Mapping[str, Cell]) -> str:
    """Return the names of the test sets' fingerprints, the most frequent first."""
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        found.setdefault(cell.data_fingerprint, []).append(name)
    found.pop("", None)
    if not found:
        return ""
    (main, _), *others = sorted(found.items(), key=lambda item: -len(item[1]))
    rest = "; ".join(f"{', '.join(names)}: {what}" for what, names in others)
    return f"data: {main}, except {rest}" if rest else f"data: {main}"


def _secondary(cells: Mapping[str, Cell]) -> str:
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for metric, value in cell.secondary.items():
            words = METRIC_WORDS.get(metric, metric)
            found.setdefault(words, []).append(f"{name} {points(value)}")
    return "; ".join(f"{words}: {', '.join(values)}" for words, values in found.items())
