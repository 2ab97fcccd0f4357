"""Runs whose answers a language model rated: their rows beside published ones, and their notes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mistral_eval.answers.mt_bench.means import (
    JudgedText,
    RatedAnswer,
    Score,
    Scores,
    by_both_rules,
    over_runs,
    score,
    score_runs,
)
from mistral_eval.errors import UsageError
from mistral_eval.record.fastchat import read_single_judgments
from mistral_eval.record.run_record import RatingsRecord, RunRecord, read_record
from mistral_eval.record.run_scores import one_line, scores_of
from mistral_eval.report.table.chat_tables import ChatResult
from mistral_eval.settings import NO_SYSTEM_PROMPT, RunSettings
from mistral_eval.suite.conversations import BENCHMARKS

NOT_RATED: Final = (
    "the answers are not rated: --judge-url and --judge-model name a judge, which rates them "
    "from 1 to 10"
)


def chat_results(paths: Sequence[Path], *, may_lack: Collection[Path] = ()) -> list[ChatResult]:
    """Return the rows of finished runs and of FastChat's files of judgments.

    A run has one for each benchmark that was rated, a file one for each model and judge. Runs that
    differ in their iteration only are one row, at the place of the first.

    Args:
        paths: Runs' folders and files.
        may_lack: Those that need no ratings.

    Raises:
        OutputError: A folder holds no finished run.
        DataError: A file is not FastChat's.
        UsageError: Nothing was rated.
    """
    rows: dict[object, list[tuple[RunRecord, RatingsRecord]]] = {}
    found: dict[object, ChatResult] = {}
    for path in paths:
        if path.suffix == ".jsonl":
            if path not in may_lack:
                found |= {(path, place): one for place, one in enumerate(_of_file(path))}
            continue
        run = read_record(path)
        if not run.ratings and path not in may_lack:
            rated = " or ".join(one.id for one in BENCHMARKS)
            raise UsageError(
                f"The run in {path} has no ratings. Run {rated} with --judge-url and "
                "--judge-model, or leave the folder out."
            )
        for name, ratings in run.ratings.items():
            key = _group(run, name, rows)
            rows.setdefault(key, []).append((run, ratings))
            found[key] = _result(rows[key], _label(run, path))
    return list(found.values())


def _label(run: RunRecord, path: Path) -> str:
    """Return a row's name, which is the same for all of its iterations."""
    first = run.settings.model_copy(update={"iteration": 0})
    return scores_of(run.model_copy(update={"settings": first}), path).name


def _group(
    run: RunRecord,
    benchmark: str,
    rows: Mapping[object, Sequence[tuple[RunRecord, RatingsRecord]]],
) -> object:
    """Return what runs of one row have in common; no two of them are the same iteration."""
    first = run.settings.model_copy(update={"iteration": 0})
    common = (first.run_id({}), first.model_label, run.model.fingerprint, benchmark)
    place = 0
    while any(
        one.settings.iteration == run.settings.iteration
        for one, _ in rows.get((*common, place), ())
    ):
        place += 1
    return (*common, place)


def _result(sets: Sequence[tuple[RunRecord, RatingsRecord]], label: str) -> ChatResult:
    """Return the row of one run, or of several iterations."""
    both = [by_rule(ratings) for _, ratings in sets]
    settings = sets[0][0].settings
    judges = dict.fromkeys(ratings.named for _, ratings in sets)
    if len(sets) == 1:
        ours, theirs, runs = *both[0], None
    else:
        read = [_read(ratings) for _, ratings in sets]
        ours, theirs = (score_runs([one[rule] for one in read]) for rule in (0, 1))
        means = [one.overall.interval.value for one, _ in both if one.overall.interval]
        runs = over_runs(means) if means else None
    return ChatResult(
        label,
        system_prompt_of(settings),
        ", ".join(judges),
        "ours",
        ours,
        runs=runs,
        other_rule=_other_mean(ours, theirs),
    )


def _of_file(file: Path) -> list[ChatResult]:
    texts: dict[tuple[str, str], list[JudgedText]] = {}
    for one in read_single_judgments(file):
        texts.setdefault((one.model, one.judge[0]), []).append(one.judged())
    if not texts:
        raise UsageError(f"{file} holds no judgment. Give another file, or leave it out.")
    found = []
    for (model, judge), judged in texts.items():
        both = by_both_rules(judged)
        other = _other_mean(both.ours, both.fastchat)
        found.append(
            ChatResult(one_line(model), "unknown", judge, "ours", both.ours, other_rule=other)
        )
    return found


def by_rule(ratings: RatingsRecord) -> tuple[Scores, Scores]:
    """Return the figures by our rule of reading ratings and by FastChat's."""
    ours, theirs = _read(ratings)
    return score(ours), score(theirs)


def _read(ratings: RatingsRecord) -> tuple[list[RatedAnswer], list[RatedAnswer]]:
    """Return the answers as our rule reads their ratings, and as FastChat's does."""
    ours, theirs = [], []
    for one in ratings.rows:
        read = RatedAnswer("", one.question_id, one.turn, ratings.judge, one.ours, one.category)
        ours.append(read)
        theirs.append(replace(read, rating=one.fastchat))
    return ours, theirs


def rating_notes(ratings: RatingsRecord | None) -> tuple[str, ...]:
    """Return what a table's notes say of a judge's ratings, or that there are none."""
    if ratings is None or not ratings.rows:
        return (NOT_RATED,)
    ours, theirs = by_rule(ratings)
    by_turn = _parts({f"turn {turn}": one for turn, one in ours.turns.items()})
    mean = (
        f"{_words(ours.overall)}, rated from 1 to 10 by {ratings.named}, read by our rule; the "
        "interval is over questions, whose turns are one cluster"
    )
    return (
        mean,
        *_difference(ours, theirs),
        *_unread(ratings, ours),
        *_versions(ratings.versions),
        *_missing(ours),
        f"by turn: {by_turn}; by category: {_parts(ours.categories)}",
    )


def _words(part: Score) -> str:
    if part.interval is None:
        return "no rating could be read"
    interval = part.interval
    return f"mean rating {interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _parts(parts: Mapping[str, Score]) -> str:
    return ", ".join(
        f"{name} {'-' if one.interval is None else format(one.interval.value, '.2f')}"
        for name, one in parts.items()
    )


def _difference(ours: Scores, theirs: Scores) -> tuple[str, ...]:
    other = _other_mean(ours, theirs)
    return () if other is None else (f"FastChat's rule of reading gives {other:.2f}",)


def _other_mean(ours: Scores, theirs: Scores) -> float | None:
    """Return the mean by FastChat's rule, if it is another one than ours."""
    mine, other = ours.overall.interval, theirs.overall.interval
    if other is None or (mine is not None and mine.value == other.value):
        return None
    return other.value


def _unread(ratings: RatingsRecord, ours: Scores) -> tuple[str, ...]:
    unread, fallback = ours.overall.unread, sum(one.is_fallback for one in ratings.rows)
    said = []
    if unread:
        refused = f", {ratings.refused} of them refused by the server" if ratings.refused else ""
        mean = ours.counting_unread
        with_them = "" if mean is None else f"; with each as -1 the mean is {mean:.2f}"
        said.append(
            f"{unread} of {len(ratings.rows)} judgments hold no readable rating after "
            f"{ratings.asked} attempts in all, and are left out{refused}{with_them}"
        )
    if fallback:
        said.append(f"{fallback} ratings stand outside double brackets")
    return tuple(said)


def _versions(versions: Mapping[str, int]) -> tuple[str, ...]:
    if len(versions) < 2:
        return ()
    names = ", ".join(f"{name} ({count})" for name, count in sorted(versions.items()))
    said = f"the judge answered under {len(versions)} names, {names}"
    return (f"{said}: ratings of different versions are different scales",)


def _missing(ours: Scores) -> tuple[str, ...]:
    if not ours.missing:
        return ()
    question, turn = ours.missing[0]
    first = f"question {question}, turn {turn}, is the first"
    said = f"missing answers: {len(ours.missing)} ({first})"
    return (f"{said}; second turns are rated lower, so that their lack raises the mean",)


def system_prompt_of(settings: RunSettings) -> str:
    """Return the name of a run's system prompt."""
    if settings.system_instruction is not None:
        return "--system-instruction"
    asked = settings.system_prompt
    return NO_SYSTEM_PROMPT if asked is None else Path(asked).name
