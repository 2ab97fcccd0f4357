"""Judge replies: compute verdicts, metrics and the table's cell."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_eval.answers.verdict import Outcome, QuestionVerdict
from mistral_eval.record.run_folder import QuestionRecord
from mistral_eval.record.run_record import Cell, RatingsRecord
from mistral_eval.report.table.rated_runs import rating_notes
from mistral_eval.run.questions import LoadedBenchmark, Question
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.conversations import Conversation


@dataclass(frozen=True, slots=True)
class Judged:
    """A benchmark's questions with their verdicts and aggregated metrics.

    `metrics` has lm-eval's keys: "<metric>,<filter>" and "<metric>_stderr,<filter>" (fractions, not
    percent). `strata` maps each subject to (correct, questions). `is_unguarded` is True if programs
    ran without isolation. `ratings` is what a language model gave the answers, if one was asked.
    """

    loaded: LoadedBenchmark
    questions: tuple[QuestionRecord, ...]
    metrics: Mapping[str, float]
    strata: Mapping[str, tuple[int, int]]
    is_unguarded: bool = False
    ratings: RatingsRecord | None = None

    @property
    def cell(self) -> Cell:
        """The table's cell."""
        benchmark = self.loaded.benchmark
        outcomes = [question.verdict.verdict.outcome for question in self.questions]
        names = {key: key.partition(",")[0] for key in self.metrics}
        secondary = {
            name: 100 * self.metrics[key]
            for key, name in names.items()
            if name != benchmark.cell and not name.endswith("_stderr")
        }
        return self._cell_of(
            outcomes,
            no_answer=outcomes.count(Outcome.NO_ANSWER),
            timeout=outcomes.count(Outcome.TIMEOUT),
            data_fingerprint=self.loaded.fingerprint.name,
            secondary=secondary,
            asked_as=self.loaded.asked_as,
            notes=self._notes(),
        )

    def _cell_of(self, outcomes: Sequence[Outcome], **fields: Any) -> Cell:
        """Return the cell: the share of correct questions, or the mean of those that count."""
        benchmark, asked = self.loaded.benchmark, len(outcomes)
        if not benchmark.is_graded:
            return Cell.counted(outcomes.count(Outcome.CORRECT), asked, benchmark.n, **fields)
        correct = sum(verdict.verdict.is_correct for verdict in self._counting)
        values: list[Any] = [verdict.metrics[benchmark.cell] for verdict in self._counting]
        return Cell.averaged(values, correct, asked, benchmark.n, **fields)

    @property
    def _counting(self) -> list[QuestionVerdict]:
        """The verdicts whose partial credit is in the cell's mean."""
        verdicts = [question.verdict for question in self.questions]
        cell = self.loaded.benchmark.cell
        return [verdict for verdict in verdicts if verdict.metrics[cell] is not None]

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
        said = benchmark.remarks(docs, [question.verdict for question in self.questions])
        notes += [f"{benchmark.column}: {one}" for one in said]
        if isinstance(benchmark, Conversation):
            notes += [f"{benchmark.column}: {one}" for one in rating_notes(self.ratings)]
        if not (fingerprint.is_hub or fingerprint.name == "sample"):
            notes.append(f"{benchmark.column}: {fingerprint.footnote}")
        return tuple(notes)


def judge_benchmark(
    loaded: LoadedBenchmark, replies: Sequence[Sequence[Any]], context: JudgeContext
) -> Judged:
    """Judge one benchmark.

    Args:
        loaded: the benchmark and its questions.
        replies: per question, (logprob, is_greedy) of each choice or the text of each sample.
        context: how generated programs may be run.
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
    return Judged(loaded, records, metrics, _by_stratum(records), unguarded)


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
    """Aggregate each metric over all questions; add lm-eval's standard error if it is a mean."""
    aggregate = loaded.task.aggregation()
    metrics: dict[str, float] = {}
    for listed in loaded.benchmark.task.metric_list:
        name = listed.metric
        values: list[Any] = [verdict.metrics[name] for verdict in verdicts]
        metrics[f"{name},{loaded.judged_by}"] = float(aggregate[name](values))
        if listed.aggregation == "mean" and len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
            metrics[f"{name}_stderr,{loaded.judged_by}"] = error
    return metrics


def _by_stratum(records: Sequence[QuestionRecord]) -> dict[str, tuple[int, int]]:
    counted: dict[str, tuple[int, int]] = {}
    for record in records:
        if record.stratum is not None:
            correct, asked = counted.get(record.stratum, (0, 0))
            counted[record.stratum] = (correct + record.verdict.verdict.is_correct, asked + 1)
    return counted
