"""The layouts `chat` and `guardrails` with finished runs and FastChat's files in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_eval.answers.refusals.judge import Response
from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import RunRecord, read_record
from mistral_eval.record.run_scores import scores_of
from mistral_eval.record.sample_files import read_rows, sample_files
from mistral_eval.report.table.chat_tables import (
    ChatResult,
    ReflectionResult,
    RefusalResult,
    chat_sections,
    guardrail_sections,
)
from mistral_eval.report.table.pair_tables import pair_results, pair_section
from mistral_eval.report.table.rated_runs import chat_results, system_prompt_of
from mistral_eval.report.table.view import Section, TableView
from mistral_eval.suite import conversations
from mistral_eval.suite.chats import BENCHMARKS, Guardrail, Reflection
from mistral_eval.suite.registry import BY_ID


@dataclass(frozen=True, slots=True)
class ChatFindings:
    """What a report shows of runs' conversations: tables, refusals and ratings; all empty if none.

    `refusals` and `rated` are what its drawings show.
    """

    sections: tuple[Section, ...] = ()
    refusals: tuple[RefusalResult, ...] = ()
    rated: tuple[ChatResult, ...] = ()


def chat_findings(paths: Sequence[Path]) -> ChatFindings:
    """Return what a report shows of finished runs' conversations.

    Raises:
        OutputError: A folder holds no finished run.
    """
    rated = chat_results(paths, may_lack=paths)
    pairs = [one for path in paths for one in pair_results(path)]
    runs = [(read_record(path), path) for path in paths]
    refusals = [one for run in runs for one in refusal_results(*run)]
    reflections = [one for run in runs for one in reflection_results(*run)]
    prompted, refused, reflected = guardrail_sections(rated, refusals, reflections)
    shown = (
        (chat_sections(rated)[0], rated),
        (prompted, rated),
        (pair_section(pairs), pairs),
        (refused, refusals),
        (reflected, reflections),
    )
    sections = tuple(section for section, has in shown if has)
    return ChatFindings(sections, tuple(refusals), tuple(rated))


def chat_view(paths: Sequence[Path]) -> TableView:
    """Return Table 3 with rated runs and files, and the pairs that a judge compared.

    Raises:
        OutputError: A folder holds no finished run.
        DataError: A file is not FastChat's.
        UsageError: Nothing was rated or compared.
    """
    compared = {path: pair_results(path) for path in paths}
    pairs = [one for found in compared.values() for one in found]
    rated = chat_results(paths, may_lack=[path for path, found in compared.items() if found])
    first, *others = chat_sections(rated)
    section = (pair_section(pairs),) if pairs else ()
    return _view((first, *section, *others))


def guardrail_view(paths: Sequence[Path]) -> TableView:
    """Return Table 4, refusals by system prompt and self-reflection, with finished runs.

    Raises:
        OutputError: A folder holds no finished run.
        UsageError: A run has nothing that these tables show.
    """
    refusals: list[RefusalResult] = []
    reflections: list[ReflectionResult] = []
    for path in paths:
        run = read_record(path)
        found = refusal_results(run, path), reflection_results(run, path)
        if not (any(found) or run.ratings):
            names = ", ".join(one.id for one in BENCHMARKS)
            others = " or ".join(one.id for one in conversations.BENCHMARKS)
            raise UsageError(
                f"The run in {path} has nothing that --layout guardrails shows: expected {names}, "
                f"or {others} with a judge's ratings. Leave the folder out."
            )
        refusals += found[0]
        reflections += found[1]
    rated = chat_results(paths, may_lack=paths)
    return _view(guardrail_sections(rated, refusals, reflections))


def refusal_results(run: RunRecord, path: Path) -> list[RefusalResult]:
    """Return a run's rates of refusals, one row for each set of prompts."""
    found = []
    for name, answers in _answers(run, path, Guardrail).items():
        benchmark = BY_ID[name]
        assert isinstance(benchmark, Guardrail), name
        judge = run.refusal_judges.get(name)
        found.append(
            RefusalResult(
                scores_of(run, path).name,
                system_prompt_of(run.settings),
                benchmark.column,
                benchmark.rates(*answers, by_cues=judge is None),
                judge.named if judge else None,
                answers[1].count(Response.UNREAD),
            )
        )
    return found


def reflection_results(run: RunRecord, path: Path) -> list[ReflectionResult]:
    """Return a run's self-reflection, one row for each set of texts."""
    found = []
    for name, answers in _answers(run, path, Reflection).items():
        benchmark = BY_ID[name]
        assert isinstance(benchmark, Reflection), name
        found.append(
            ReflectionResult(
                scores_of(run, path).name,
                system_prompt_of(run.settings),
                benchmark.texts,
                benchmark.figures(*answers),
            )
        )
    return found


_Answers = tuple[list[Mapping[str, Any]], list[str | None]]


def _answers(
    run: RunRecord, path: Path, kind: type[Guardrail] | type[Reflection]
) -> dict[str, _Answers]:
    """Return rows and judged answers of the run's benchmarks of one kind."""
    asked = [one.id for one in BENCHMARKS if isinstance(one, kind) and one.id in run.scores]
    files = sample_files(run, path) if asked else {}
    found: dict[str, _Answers] = {}
    for name in asked:
        docs, answers = found.setdefault(name, ([], []))
        for row in read_rows(files[name]):
            docs.append(row["doc"])
            answers.append(row["verdict"]["answer"])
    return found


def _view(sections: tuple[Section, ...]) -> TableView:
    return TableView(sections[0].title, (), (), (), sections)
