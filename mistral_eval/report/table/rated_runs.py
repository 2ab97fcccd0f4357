"""Runs whose answers a language model rated: their rows beside published ones, and their notes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mistral_eval.answers.mt_bench.means import (
    JudgedText,
    RatedAnswer,
    Score,
    Scores,
    by_both_rules,
    score,
)
from mistral_eval.errors import UsageError
from mistral_eval.record.fastchat import read_single_judgments
from mistral_eval.record.run_record import (
    RatingsRecord,
    RunRecord,
    one_line,
    read_record,
    scores_of,
)
from mistral_eval.report.table.chat_tables import ChatResult
from mistral_eval.settings import NO_SYSTEM_PROMPT, RunSettings
from mistral_eval.suite.conversations import BENCHMARKS

NOT_RATED: Final = (
    "the answers are not rated: --judge-url and --judge-model name a judge, which rates them "
    "from 1 to 10"
)


def chat_results(folder: Path) -> list[ChatResult]:
    """Return the rows of a finished run, one for each benchmark that was rated.

    A FastChat file of judgments has a row for each model and judge.

    Raises:
        OutputError: The folder holds no finished run.
        DataError: The file is not FastChat's.
        UsageError: Nothing was rated.
    """
    if folder.suffix == ".jsonl":
        return _of_file(folder)
    run = read_record(folder)
    if not run.ratings:
        rated = " or ".join(one.id for one in BENCHMARKS)
        raise UsageError(
            f"The run in {folder} has no ratings. Run {rated} with --judge-url and --judge-model, "
            "or leave the folder out."
        )
    label = scores_of(run, folder).name
    return [_result(run, label, ratings) for ratings in run.ratings.values()]


def _result(run: RunRecord, label: str, ratings: RatingsRecord) -> ChatResult:
    ours, theirs = by_rule(ratings)
    return ChatResult(
        label,
        _system_prompt(run.settings),
        named(ratings),
        "ours",
        ours,
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
    ours, theirs = [], []
    for one in ratings.rows:
        read = RatedAnswer("", one.question_id, one.turn, ratings.judge, one.ours, one.category)
        ours.append(read)
        theirs.append(replace(read, rating=one.fastchat))
    return score(ours), score(theirs)


def named(ratings: RatingsRecord) -> str:
    """Return the judge's name, with those that its server gave if they are others."""
    versions = sorted(ratings.versions)
    if not versions or versions == [ratings.judge]:
        return ratings.judge
    return f"{ratings.judge} ({', '.join(versions)})"


def rating_notes(ratings: RatingsRecord | None) -> tuple[str, ...]:
    """Return what a table's notes say of a judge's ratings, or that there are none."""
    if ratings is None or not ratings.rows:
        return (NOT_RATED,)
    ours, theirs = by_rule(ratings)
    by_turn = _parts({f"turn {turn}": one for turn, one in ours.turns.items()})
    mean = (
        f"{_words(ours.overall)}, rated from 1 to 10 by {named(ratings)}, read by our rule; the "
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


def _system_prompt(settings: RunSettings) -> str:
    """Return the name of a run's system prompt."""
    if settings.system_instruction is not None:
        return "--system-instruction"
    asked = settings.system_prompt
    return NO_SYSTEM_PROMPT if asked is None else Path(asked).name
