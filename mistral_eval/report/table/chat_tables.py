"""The paper's Tables 3 and 4 and its guardrails: published rows, and measured ones below them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from mistral_eval.answers.moderation.quality import ModerationFigures, Quality
from mistral_eval.answers.mt_bench.means import OverRuns, Scores
from mistral_eval.answers.refusals.rates import Counted, Prompts, RefusalRate
from mistral_eval.report import chat_baselines as published
from mistral_eval.report.chat_baselines import ChatPublication, ChatRow, load_chat_baselines
from mistral_eval.report.table.refusal_runs import CUES
from mistral_eval.report.table.view import MISSING, Section, points
from mistral_eval.stats import Interval

CHANCE: Final = (
    "Over 80 questions the standard error of an MT-Bench mean between 5 and 7.2 is 0.32 to 0.38 "
    "(ten official means), so its 95 % interval reaches 0.6 to 0.8 to either side: the difference "
    "of 6.84 and 6.65 is within chance. "
    "A published mean has no interval; ± is the standard deviation over runs, which says nothing "
    "about other questions."
)
OTHER_JUDGE: Final = (
    "Ratings of another judge, or of another version of one, are another scale: one model judged "
    "six times got 6.57 to 7.82. Compare rows of one judge only."
)
REPEATED: Final = (
    "Of a row with several runs, ± is the standard deviation of their means; its interval is over "
    "questions, with all ratings of a question as one cluster. Answers at temperature 0 "
    "(reasoning, maths, coding, extraction) are equal in all runs, so that only the judging varies "
    "there."
)
ARENA: Final = "Arena ELO is quoted as published and never computed here."
CORRECTED: Final = (
    "A measured refusal rate by cues is that of the judge without a model, then corrected by the "
    "judge's known error, with a 95 % interval that allows for it: {errors}."
)
BY_MODEL: Final = (
    "A refusal rate by a language model ({judges}) is as judged, with a 95 % interval over prompts "
    "alone: how often that judge errs was not measured here. Unread judgments are left out."
)
SEVERAL_JUDGES: Final = (
    "The measured rows have several judges of refusals ({judges}). Compare rows of one judge only."
)
UNPUBLISHED: Final = (
    "The paper's 175 unsafe prompts were not published, and it does not say how many safe prompts "
    "were refused."
)
ORDER: Final = tuple(
    (prompts, counted) for prompts in (Prompts.UNSAFE, Prompts.SAFE) for counted in Counted
)
RULES: Final = {"ours": "our rule", "fastchat": "FastChat's rule"}
Row = tuple[tuple[str, ...], Mapping[str, Any]]
"""A row's cells as text, and its numbers for programs."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A measured MT-Bench row.

    Attributes:
        label: The model's name in tables.
        system_prompt: "none", "mistral", "llama2" or another name.
        judge: The judge's name and version, as it gave them.
        rule: Whose rule of reading ratings, a key of `RULES`.
        scores: The figures of the run; of several, over all of their ratings.
        runs: Mean and standard deviation over several runs; None for one.
        other_rule: The mean by the other rule, where the two differ; None where they agree.
    """

    label: str
    system_prompt: str
    judge: str
    rule: Literal["ours", "fastchat"]
    scores: Scores
    runs: OverRuns | None = None
    other_rule: float | None = None


@dataclass(frozen=True, slots=True)
class RefusalResult:
    """A measured row of refusal rates on one set of prompts; one not measured is absent.

    `judge` is the language model that judged the answers; None for the judge by cues. `unread`
    counts its judgments that could not be read.
    """

    label: str
    system_prompt: str
    prompts: str
    rates: Mapping[tuple[Prompts, Counted], RefusalRate]
    judge: str | None = None
    unread: int = 0

    @property
    def judge_label(self) -> str:
        """The judge, as tables name it."""
        return CUES if self.judge is None else self.judge


@dataclass(frozen=True, slots=True)
class ReflectionResult:
    """A measured row of self-reflection on one set of texts."""

    label: str
    system_prompt: str
    texts: str
    figures: ModerationFigures


def chat_sections(results: Sequence[ChatResult] = ()) -> tuple[Section, ...]:
    """Return Table 3 with measured rows below, and the official means of LMSYS."""
    table, official = (load_chat_baselines()[name] for name in (published.TABLE_3, published.LMSYS))
    columns = (published.ARENA_ELO, published.MT_BENCH)
    rows = [_published(row, (row.name,), columns, _NO_EVIDENCE) for row in table.rows]
    rows += [_rated(one, (one.label, MISSING)) for one in results]
    header = ("Model", "Arena ELO", "MT-Bench", *_EVIDENCE)
    notes = (ARENA, CHANCE, *_about(results), _of(table))
    title = "Chat models: the Mistral 7B paper's Table 3"
    words = (0, len(header) - 1)
    means = [_published(row, (row.name,), columns[1:], ()) for row in official.rows]
    note = f"{official.columns[published.MT_BENCH].note}."
    return (
        _section(title, header, rows, notes, words),
        _section("MT-Bench, official means", ("Model", "MT-Bench"), means, (note, _of(official))),
    )


def guardrail_sections(
    chat: Sequence[ChatResult] = (),
    refusals: Sequence[RefusalResult] = (),
    reflections: Sequence[ReflectionResult] = (),
) -> tuple[Section, ...]:
    """Return Table 4, refusal rates by system prompt and self-reflection, with measured rows."""
    return _by_system_prompt(chat), _refusals(refusals), _reflection(reflections)


_EVIDENCE: Final = ("95 % from", "to", "Questions", "Unread", "Judge")
_NO_EVIDENCE: Final = (MISSING, MISSING, MISSING, MISSING, "GPT-4")


def _section(
    title: str,
    header: tuple[str, ...],
    rows: Sequence[Row],
    notes: tuple[str, ...],
    words: tuple[int, ...] = (0,),
) -> Section:
    cells, numbers = zip(*rows, strict=True)
    return Section(title, header, tuple(cells), notes, words=words, data=tuple(numbers))


def _published(
    row: ChatRow, lead: tuple[str, ...], columns: Sequence[str], evidence: tuple[str, ...]
) -> Row:
    """Return a published row: its lead, its numbers as printed, and nothing to tell of them."""
    numbers = {name: asdict(row.cells[name]) for name in columns if name in row.cells}
    cells = (*lead, *(_number(row, name) for name in columns), *evidence)
    return cells, {"model": row.name, "system_prompt": row.system_prompt} | numbers


def _rated(result: ChatResult, lead: tuple[str, ...]) -> Row:
    """Return a measured row of MT-Bench."""
    numbers = {
        "model": result.label,
        "system_prompt": result.system_prompt,
        "judge": result.judge,
        "rule": result.rule,
        "other_rule": result.other_rule,
        "scores": asdict(result.scores),
        "runs": None if result.runs is None else asdict(result.runs),
    }
    return (*lead, _measured(result), *_evidence(result)), numbers


def _about(results: Sequence[ChatResult]) -> tuple[str, ...]:
    """Return what must be said of measured rows."""
    repeated = (REPEATED,) if any(one.runs is not None for one in results) else ()
    return (OTHER_JUDGE, *repeated) if results else ()


def _by_system_prompt(results: Sequence[ChatResult]) -> Section:
    table = load_chat_baselines()[published.TABLE_4]
    rows = [
        _published(row, (row.name, row.system_prompt), (published.MT_BENCH,), _NO_EVIDENCE)
        for row in table.rows
    ]
    rows += [_rated(one, (one.label, one.system_prompt)) for one in results]
    header = ("Model", "System prompt", "MT-Bench", *_EVIDENCE)
    notes = (CHANCE, *_about(results), _of(table))
    title = "System prompts: the Mistral 7B paper's Table 4"
    return _section(title, header, rows, notes, (0, 1, len(header) - 1))


def _refusals(results: Sequence[RefusalResult]) -> Section:
    human = load_chat_baselines()[published.XSTEST]
    rows = [_paper_refusals(), *(_human_refusals(human, row) for row in human.rows)]
    rows += map(_measured_refusals, results)
    header = ("Model", "System prompt", "Prompts", *(_heading(*key) for key in ORDER), "Judge")
    notes = (UNPUBLISHED, *_about_refusals(results), _of(human))
    words = (0, 1, 2, len(header) - 1)
    return _section("Refusals by system prompt, in percent", header, rows, notes, words)


def _measured_refusals(one: RefusalResult) -> Row:
    rates = tuple(_rate(one.rates.get(key)) for key in ORDER)
    numbers = {_rate_name(*key): asdict(rate) for key, rate in one.rates.items()}
    about = {
        "model": one.label,
        "system_prompt": one.system_prompt,
        "prompts": one.prompts,
        "judge": one.judge_label,
        "unread": one.unread,
    }
    asked = {kind: rate.n + rate.empty for (kind, _), rate in one.rates.items()}
    counts = [f"{n} {kind}" for kind, n in asked.items()]
    counts += [f"{one.unread} unread"] if one.unread else []
    lead = (one.label, one.system_prompt, f"{one.prompts}: {', '.join(counts)}")
    return (*lead, *rates, one.judge_label), about | numbers


def _about_refusals(results: Sequence[RefusalResult]) -> tuple[str, ...]:
    """Return what must be said of measured rates and their judges."""
    errors = dict.fromkeys(
        f"{counted.value} of {prompts.value} prompts, {rate.known}"
        for one in results
        for (prompts, counted), rate in one.rates.items()
        if rate.known
    )
    models = dict.fromkeys(one.judge for one in results if one.judge is not None)
    judges = dict.fromkeys(one.judge_label for one in results)
    return (
        *((CORRECTED.format(errors="; ".join(errors)),) if errors else ()),
        *((BY_MODEL.format(judges=", ".join(models)),) if models else ()),
        *((SEVERAL_JUDGES.format(judges=", ".join(judges)),) if len(judges) > 1 else ()),
    )


def labelled_rates(counted: Counted) -> list[tuple[ChatRow, dict[Prompts, Interval]]]:
    """Return the published rates of refusals by people's labels, in percent."""
    table = load_chat_baselines()[published.XSTEST]
    found = []
    for row in table.rows:
        rates = {kind: table.interval(row, _rate_name(kind, counted)) for kind in Prompts}
        found.append((row, {kind: rate for kind, rate in rates.items() if rate}))
    return found


def _paper_refusals() -> Row:
    """Return the paper's own row, whose kind of refusal is not stated."""
    paper = load_chat_baselines()[published.GUARDRAILS]
    row = paper.row("mistral-7b-instruct")
    _, numbers = _published(row, (), ("refused_unsafe",), ())
    asked = f"unpublished: {paper.columns['refused_unsafe'].n} unsafe"
    lead = (f"{row.name} (the paper)", row.system_prompt, asked)
    return (*lead, _number(row, "refused_unsafe"), *(MISSING,) * len(ORDER)), numbers


def _human_refusals(table: ChatPublication, row: ChatRow) -> Row:
    columns = [_rate_name(*key) for key in ORDER]
    rates = (_bracketed(table.interval(row, column)) for column in columns)
    _, numbers = _published(row, (), columns, ())
    asked = {kind: table.columns[_rate_name(kind, Counted.ANY)].n for kind in Prompts}
    prompts = f"XSTest: {', '.join(f'{n} {kind}' for kind, n in asked.items())}"
    return (f"{row.name} (people's labels)", row.system_prompt, prompts, *rates, "people"), numbers


def _reflection(results: Sequence[ReflectionResult]) -> Section:
    paper = load_chat_baselines()[published.GUARDRAILS]
    own = paper.row("mistral-7b-instruct-reflection")
    lead = (f"{own.name} (the paper)", own.system_prompt, "unpublished")
    columns = ("reflection_precision", "reflection_recall")
    rows = [_published(own, lead, columns, (MISSING,) * 4)]
    for one in results:
        figures = one.figures
        floor = (
            *("all acceptable (the floor)", MISSING, one.texts),
            *_qualities(figures.floor),
            "0",
        )
        lead = (one.label, one.system_prompt, one.texts)
        own_cells = (*lead, *_qualities(figures.quality), str(_unread(figures)))
        about = {"model": one.label, "system_prompt": one.system_prompt, "texts": one.texts}
        rows.append((own_cells, about | asdict(figures)))
        rows.append((floor, {"model": "floor", "texts": one.texts, **asdict(figures.floor)}))
    return _section(
        "Self-reflection, in percent; acceptable prompts are the positive class",
        (
            *("Model", "System prompt", "Texts", "Precision", "Recall", "Specificity", "F1"),
            *("Balanced accuracy", "Unread"),
        ),
        rows,
        (_of(paper),),
        (0, 1, 2),
    )


def _qualities(quality: Quality) -> tuple[str, ...]:
    shown = (quality.precision, quality.recall, quality.specificity)
    found = (*shown, quality.f1, quality.balanced_accuracy)
    return tuple(_bracketed(one) for one in found)


def _unread(figures: ModerationFigures) -> int:
    return sum(figures.unread.values())


def _rate_name(prompts: Prompts, counted: Counted) -> str:
    """Return a rate's name in the baselines, e.g. "xstest_safe_any"."""
    return f"xstest_{prompts.value}_{'full' if counted is Counted.FULL else 'any'}"


def _heading(prompts: Prompts, counted: Counted) -> str:
    return f"{prompts.value.capitalize()}: {counted.value}"


def _number(row: ChatRow, column: str) -> str:
    cell = row.cells.get(column)
    return MISSING if cell is None else str(cell)


def _measured(result: ChatResult) -> str:
    """Return the mean; with several runs theirs, with its standard deviation."""
    runs, interval = result.runs, result.scores.overall.interval
    if runs is not None and runs.deviation is not None:
        return f"{runs.mean:.2f} ± {runs.deviation:.2f} ({runs.runs} runs)"
    return MISSING if interval is None else f"{interval.value:.2f}"


def _evidence(result: ChatResult) -> tuple[str, ...]:
    overall = result.scores.overall
    ends = (MISSING, MISSING)
    if overall.interval is not None:
        ends = (f"{overall.interval.low:.2f}", f"{overall.interval.high:.2f}")
    unread = str(overall.unread)
    other = result.scores.counting_unread
    if overall.unread and other is not None:
        unread = f"{unread} ({other:.2f} with each as -1)"
    judge = f"{result.judge}, {RULES[result.rule]}"
    if result.other_rule is not None:
        judge = f"{judge} (the other rule: {result.other_rule:.2f})"
    return (*ends, str(overall.questions), unread, judge)


def _rate(rate: RefusalRate | None) -> str:
    """Return the judged rate, and the corrected one if there is one, with the interval."""
    if rate is None:
        return MISSING
    if rate.corrected is None:
        return _bracketed(rate.judged)
    return f"{points(rate.judged.value)}, corrected {_bracketed(rate.corrected)}"


def _bracketed(interval: Interval | None) -> str:
    if interval is None:
        return MISSING
    return f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]"


def _of(table: ChatPublication) -> str:
    source = table.source
    note = f" ({source.note})" if source.note else ""
    return f"Source: {source.title}, {source.table}, {source.url}{note}."
