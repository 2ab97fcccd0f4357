"""From replies to verdicts, for every benchmark through one function.

The filters that the YAML files name, the harness and a later rescoring all call `judge`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from mistral_eval.answers import completions as programs
from mistral_eval.answers import exact_match as spans
from mistral_eval.answers import likelihoods as choice_answers
from mistral_eval.answers import votes
from mistral_eval.answers.math_checker import MathChecker
from mistral_eval.answers.stop_strings import cut
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.data.task_file import read_task
from mistral_eval.errors import TaskError
from mistral_eval.sandbox import Isolation, probe, run_programs
from mistral_eval.suite import golds
from mistral_eval.suite.choices import CHOICES
from mistral_eval.suite.registry import BY_ID

Doc: TypeAlias = Mapping[str, Any]
Score: TypeAlias = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """What judging may use.

    Attributes:
        isolation: What `sandbox.probe()` found; None asks it when programs are to be run.
        unsafe: Run generated programs without isolation.
        workers: Processes to judge with; None takes one per core.
        on_done: Called with (done, in all) while programs run and formulas are compared; the
            other benchmarks are judged too fast to report.
        on_verdict: Called with whether a question is right, as its one program ends; the other
            benchmarks' verdicts come all at once.
    """

    isolation: Isolation | None = None
    unsafe: bool = False
    workers: int | None = None
    on_done: Callable[[int, int], None] | None = None
    on_verdict: Callable[[bool], None] | None = None


DEFAULT: Final = JudgeContext()
Judge: TypeAlias = Callable[
    [str, Sequence[Doc], Sequence[Sequence[Any]], JudgeContext], list[QuestionVerdict]
]


def judge(
    benchmark: str,
    docs: Sequence[Doc],
    replies: Sequence[Sequence[str] | Sequence[Score]],
    *,
    context: JudgeContext = DEFAULT,
) -> list[QuestionVerdict]:
    """Judge the replies to a benchmark's questions.

    Args:
        benchmark: the task's name.
        docs: the questions' rows.
        replies: per question, the texts of its samples; for multiple choice (log-likelihood,
            is greedy) of its choices, in their order.
        context: how programs may be run.

    Returns:
        One verdict per question, with its metrics by the names of the YAML file's `metric_list`.

    Raises:
        TaskError: the benchmark is not one of ours.
        SandboxError: programs cannot be isolated, and `context.unsafe` is False.
    """
    if benchmark not in _JUDGES:
        raise TaskError(
            f"A judge exists for {', '.join(_JUDGES)}, but not for {benchmark!r}. "
            "Add one to mistral_eval/suite/judge.py."
        )
    assert len(docs) == len(replies), (benchmark, len(docs), len(replies))
    if benchmark not in CHOICES:
        stops = read_task(benchmark)["generation_kwargs"]["until"]
        # an engine has cut already; one that has not is judged the same
        replies = [[cut(str(text), stops) for text in samples] for samples in replies]
    return _JUDGES[benchmark](benchmark, docs, replies, context)


def _choice(
    benchmark: str, docs: Sequence[Doc], replies: Sequence[Sequence[Score]], _: JudgeContext
) -> list[QuestionVerdict]:
    """Likelihood of the choices: plain, and per character where that is the table's cell."""
    normalised = BY_ID[benchmark].metric == "acc_norm"
    verdicts = []
    for doc, scores in zip(docs, replies, strict=True):
        choices = CHOICES[benchmark](doc)
        logprobs = [logprob for logprob, _greedy in scores]
        plain = choice_answers.pick_choice(logprobs, choices.texts, choices.gold, "none")
        metrics: dict[str, object] = {"acc": float(plain.is_correct)}
        verdict = plain
        if normalised:
            verdict = choice_answers.pick_choice(
                logprobs, choices.texts, choices.gold, "characters"
            )
            metrics["acc_norm"] = float(verdict.is_correct)
        if benchmark == "mmlu":
            metrics["acc_macro"] = (doc["subject"], float(plain.is_correct))
        verdicts.append(QuestionVerdict(verdict, metrics=metrics))
    return verdicts


def _span(
    benchmark: str, docs: Sequence[Doc], replies: Sequence[Sequence[str]], _: JudgeContext
) -> list[QuestionVerdict]:
    """Exact match with any accepted answer."""
    verdicts = []
    for doc, (reply, *_rest) in zip(docs, replies, strict=True):
        verdict = spans.match_any(spans.cut(reply), golds.TEXTS[benchmark](doc))
        metrics = {"exact_match": float(verdict.is_correct)}
        verdicts.append(QuestionVerdict(verdict, (verdict,), metrics))
    return verdicts


def _program(
    benchmark: str, docs: Sequence[Doc], replies: Sequence[Sequence[str]], context: JudgeContext
) -> list[QuestionVerdict]:
    """pass@1: every sample's program runs in the sandbox, all of them at once."""
    make = programs.humaneval_program if benchmark == "humaneval" else programs.mbpp_program
    texts = [reply for samples in replies for reply in samples]
    rows = [doc for doc, samples in zip(docs, replies, strict=True) for _ in samples]
    running = run_programs(
        [make(row, text) for row, text in zip(rows, texts, strict=True)],
        isolation=context.isolation or probe(),
        unsafe=context.unsafe,
        workers=context.workers,
    )
    found = {}
    for place, result in running:
        found[place] = programs.program_verdict(texts[place], result.status, result.detail)
        if context.on_done:
            context.on_done(len(found), len(texts))
        if context.on_verdict and len(texts) == len(docs):
            context.on_verdict(found[place].is_correct)
    judged = iter(found[place] for place in range(len(texts)))
    verdicts = []
    for samples in replies:
        mine = tuple(next(judged) for _ in samples)
        passed = sum(verdict.is_correct for verdict in mine)
        metrics = {"pass@1": programs.pass_at_k(len(mine), passed, 1)}
        verdicts.append(QuestionVerdict(mine[0], mine, metrics))
    return verdicts


def _math(
    benchmark: str, docs: Sequence[Doc], replies: Sequence[Sequence[str]], context: JudgeContext
) -> list[QuestionVerdict]:
    """A vote over final answers that are equivalent; all comparisons go through one checker."""
    solutions = [gold for doc in docs for gold in golds.TEXTS[benchmark](doc)]
    with MathChecker(workers=context.workers) as checker:
        return votes.vote_on_formulas(replies, solutions, checker, on_done=context.on_done)


def _gsm8k(
    benchmark: str, docs: Sequence[Doc], replies: Sequence[Sequence[str]], _: JudgeContext
) -> list[QuestionVerdict]:
    """A vote over numbers."""
    return votes.vote_on_numbers(replies, [golds.TEXTS[benchmark](doc)[0] for doc in docs])


_JUDGES: Final[Mapping[str, Judge]] = MappingProxyType(
    {
        **dict.fromkeys(CHOICES, _choice),
        "nq": _span,
        "triviaqa": _span,
        "humaneval": _program,
        "mbpp": _program,
        "math": _math,
        "gsm8k": _gsm8k,
    }
)
