"""Judge replies: compute verdicts, metrics and the table's cell."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mistral_eval.answers.verdict import Outcome, QuestionVerdict
from mistral_eval.record.run_folder import QuestionRecord
from mistral_eval.record.run_record import Cell, JudgeRecord, RatingsRecord
from mistral_eval.report.table.rated_runs import rating_notes
from mistral_eval.report.table.refusal_runs import refusal_notes
from mistral_eval.run.questions import LoadedBenchmark, Question
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.chats import Guardrail
from mistral_eval.suite.conversations import Conversation
from mistral_eval.suite.lm_eval_hooks import mean_of_kept


@dataclass(frozen=True, slots=True)
class Judged:
    """A benchmark's questions with their verdicts and aggregated metrics.

    `metrics` has lm-eval's keys: "<metric>,<filter>" and "<metric>_stderr,<filter>" (fractions, not
    percent). `strata` maps each subject to (correct, questions). `is_unguarded` is True if programs
    ran without isolation. `ratings` is what a language model gave the answers, if one was asked;
    `refusal_judge` is the one that judged refusals, None for cues.
    """

    loaded: LoadedBenchmark
    questions: tuple[QuestionRecord, ...]
    metrics: Mapping[str, float]
    strata: Mapping[str, tuple[int, int]]
    is_unguarded: bool = False
    ratings: RatingsRecord | None = None
    refusal_judge: JudgeRecord | None = None

    @property
    def cell(self) -> Cell:
        """The table's cell."""
        benchmark = self.loaded.benchmark
        compared = [one for one in self._verdicts if benchmark.is_compared(one.metrics)]
        outcomes = [one.verdict.outcome for one in compared]
        names = {key: key.partition(",")[0] for key in self.metrics}
        secondary = {
            name: 100 * self.metrics[key]
            for key, name in names.items()
            if name != benchmark.cell and not name.endswith("_stderr") and self._has(name)
        }
        return self._cell_of(
            outcomes,
            no_answer=outcomes.count(Outcome.NO_ANSWER),
            timeout=outcomes.count(Outcome.TIMEOUT),
            data_fingerprint=self.loaded.fingerprint.name,
            secondary=secondary,
            asked_as=self.loaded.asked_as,
            judged_by=self.refusal_judge.named if self.refusal_judge else "",
            notes=self._notes(),
        )

    def _has(self, metric: str) -> bool:
        """Return whether a metric has a value, unless it is none of single questions."""
        return any(one.metrics.get(metric, 0.0) is not None for one in self._verdicts)

    def _cell_of(self, outcomes: Sequence[Outcome], **fields: Any) -> Cell:
        """Return the cell: the share of correct questions, or the mean, of those that count."""
        benchmark, asked = self.loaded.benchmark, len(self.questions)
        if not benchmark.is_graded:
            correct, n = outcomes.count(Outcome.CORRECT), len(outcomes)
            return Cell.counted(correct, n, benchmark.n, unread=asked - n, **fields)
        correct = sum(verdict.verdict.is_correct for verdict in self._counting)
        values: list[Any] = [verdict.metrics[benchmark.cell] for verdict in self._counting]
        return Cell.averaged(values, correct, asked, benchmark.n, **fields)

    @property
    def _verdicts(self) -> list[QuestionVerdict]:
        return [question.verdict for question in self.questions]

    @property
    def _counting(self) -> list[QuestionVerdict]:
        """The verdicts that count in the cell: those with a value of its metric."""
        return [one for one in self._verdicts if self.loaded.benchmark.counts(one.metrics)]

    def _notes(self) -> tuple[str, ...]:
        """Return the cell's notes: other shots, no isolation, rows that are not the hub's."""
        benchmark, fingerprint = self.loaded.benchmark, self.loaded.fingerprint
        shots = self.loaded.task.config.num_fewshot
        notes = []
        if shots != benchmark.shots:
            notes.append(
                f"{benchmark.column}: {shots}-shot, not the paper's {benchmark.shots_label}-shot"
            )
        if self.is_unguarded:
            notes.append(f"{benchmark.column}: programs ran without isolation (--unsafe-code)")
        if benchmark.is_graded:
            notes.append(
                f"{benchmark.column}: a mean over the {len(self._counting)} of "
                f"{len(self.questions)} questions on which people agree, with Student's t interval"
            )
        docs = [question.doc for question in self.questions]
        if isinstance(benchmark, Guardrail) and self.refusal_judge:
            answers = [one.verdict.answer for one in self._verdicts]
            said = refusal_notes(benchmark, docs, answers, self.refusal_judge)
        else:
            said = benchmark.remarks(docs, self._verdicts)
        notes += [f"{benchmark.column}: {one}" for one in said]
        if isinstance(benchmark, Conversation):
            notes += [f"{benchmark.column}: {one}" for one in rating_notes(self.ratings)]
        if not (fingerprint.is_hub or fingerprint.name == "sample"):
            notes.append(f"{benchmark.column}: {fingerprint.footnote}")
        return tuple(notes)


def judge_benchmark(
    loaded: LoadedBenchmark,
    replies: Sequence[Sequence[Any]],
    context: JudgeContext,
    refusal_judges: Mapping[str, JudgeRecord] = MappingProxyType({}),
) -> Judged:
    """Judge one benchmark.

    Args:
        loaded: the benchmark and its questions.
        replies: per question, (logprob, is_greedy) of each choice or the text of each sample.
        context: how generated programs may be run, and what a language model said of answers.
        refusal_judges: that language model, by benchmark.
    """
    docs = [dict(question.doc) for question in loaded.questions]
    verdicts = loaded.benchmark.judge(docs, replies, context)
    records = tuple(
        _record(loaded, question, answers, verdict)
        for question, answers, verdict in zip(loaded.questions, replies, verdicts, strict=True)
    )
    isolation = context.isolation  # --unsafe-code permits a run without isolation if there is none
    unguarded = loaded.benchmark.runs_programs and isolation is not None and not isolation.available
    metrics = _aggregate(loaded, verdicts)
    return Judged(
        loaded,
        records,
        metrics,
        _by_stratum(loaded, records),
        unguarded,
        refusal_judge=refusal_judges.get(loaded.benchmark.id),
    )


def _record(
    loaded: LoadedBenchmark, question: Question, answers: Sequence[Any], verdict: QuestionVerdict
) -> QuestionRecord:
    requests = question.requests
    if loaded.kind == "score":
        arguments: list[Any] = [
            (str(request.context), request.continuation) for request in requests
        ]
        replies = [[answer] for answer in answers]
    elif turns := loaded.later_turns(question, answers):
        arguments = [
            (str(request.context), loaded.kwargs_for(question.doc))
            for request in (*requests, *turns)
        ]
        replies = [[answer] for answer in answers]
    else:  # lm-eval keeps the samples of one prompt together
        arguments = [(str(requests[0].context), loaded.task.config.generation_kwargs)]
        replies = [list(answers)]
    return QuestionRecord(
        doc_id=question.doc_id,
        doc=question.doc,
        target=loaded.task.doc_to_target(question.doc),
        arguments=arguments,
        replies=replies,
        verdict=verdict,
        stratum=loaded.stratum(question.doc),
    )


def _aggregate(loaded: LoadedBenchmark, verdicts: Sequence[QuestionVerdict]) -> dict[str, float]:
    """Aggregate each metric over the questions; add lm-eval's standard error if it is a mean.

    A mean is over the questions that have a value.
    """
    aggregate = loaded.task.aggregation()
    metrics: dict[str, float] = {}
    for listed in loaded.benchmark.task.metric_list:
        name = listed.metric
        values: list[Any] = [verdict.metrics[name] for verdict in verdicts]
        combine = aggregate[name]
        if listed.aggregation == "mean" and None in values:
            values, combine = [value for value in values if value is not None], mean_of_kept
        metrics[f"{name},{loaded.judged_by}"] = float(combine(values))
        if listed.aggregation == "mean" and len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
            metrics[f"{name}_stderr,{loaded.judged_by}"] = error
    return metrics


def _by_stratum(
    loaded: LoadedBenchmark, records: Sequence[QuestionRecord]
) -> dict[str, tuple[int, int]]:
    counted: dict[str, tuple[int, int]] = {}
    for record in records:
        if record.stratum is not None and loaded.benchmark.is_compared(record.verdict.metrics):
            correct, asked = counted.get(record.stratum, (0, 0))
            counted[record.stratum] = (correct + record.verdict.verdict.is_correct, asked + 1)
    return counted
